"""What every room uses: errors, handles of actors, spans of time, who has the GPU, functions loaded by name."""
