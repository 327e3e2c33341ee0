"""Recorded steps: written during a run, run again, compared."""
