"""How judged tokens become weights. In: judged groups. Out: weights. Must not know: the loop, placement, vLLM."""
