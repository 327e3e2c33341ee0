"""Sweeps (--multirun): members as processes or Ray jobs, what became of them, and the page that compares them."""
