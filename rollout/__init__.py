"""Generation. In: problems and weights. Out: trajectories. Must not know: rewards, losses, the training loop."""
