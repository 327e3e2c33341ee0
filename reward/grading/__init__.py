"""Is this response right? Extraction of the final answer, and whether it equals the gold answer."""
