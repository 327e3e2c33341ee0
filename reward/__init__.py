"""Whether the tokens are right. In: trajectories. Out: judged groups. Must not know: losses, the loop."""
