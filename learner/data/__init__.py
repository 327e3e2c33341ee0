"""From judged trajectories to packed micro-batches, and what they cost in FLOPs."""
