"""The policy as the learner computes it: loading, attention over packed rows, log-probs, adapters, reference."""
