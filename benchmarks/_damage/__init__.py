"""What `benchmarks/damage.py` damages, and how, and what reads it."""
