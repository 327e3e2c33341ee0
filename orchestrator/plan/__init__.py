"""What a run will take before it is started: memory, seconds, tokens and money, for every placement of its GPUs."""
