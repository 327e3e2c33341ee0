"""Metrics of a run: computed, logged, shown, and summed up at its end; spans and traces."""
