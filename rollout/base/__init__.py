"""What every package uses: errors, actor handles, spans of time, GPU sharing, functions loaded by name."""
