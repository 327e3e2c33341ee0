"""Learning. In: graded groups. Out: weights. Must not know: the training loop, placement, vLLM."""
