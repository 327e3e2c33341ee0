"""Grading. In: trajectories. Out: groups with verdicts and rewards. Must not know: losses, the training loop."""
