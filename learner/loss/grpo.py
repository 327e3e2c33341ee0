"""Plain GRPO: the mean over a response's tokens, control token included (DeepSeekMath, arXiv 2402.03300, eq. 3).

    paper form    w_t = 1 / (N * (T_i + 1))          for t = 0..T_i
    code form     w_t = 1 / sum_i (T_i + 1)          (token mean over the optimizer step)

Advantages are not divided by the standard deviation (see `learner.advantage`), as in Thinkless.
"""

from __future__ import annotations

import numpy as np

from learner.loss import Totals


def token_weights(length: int, totals: Totals, form: str) -> np.ndarray:
    """Weights f32[length] of a trajectory of `length` = T_i + 1 tokens; form: "paper" or "code"."""
    weight = 1.0 / (totals.trajectories * length) if form == "paper" else 1.0 / totals.tokens
    return np.full(length, weight, dtype=np.float32)
