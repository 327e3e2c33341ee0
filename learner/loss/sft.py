"""Supervised fine-tuning on given responses, prompt masked (Thinkless stage 1).

L = - sum_i sum_{t=0..T_i} w_t log pi(y_it | x_i, y_i<t),      w_t = 1 / sum_i (T_i + 1)
"""

from __future__ import annotations

import numpy as np

from learner.loss import Totals


def token_weights(length: int, totals: Totals) -> np.ndarray:
    """Weights f32[length] of a response of `length` tokens, control token and end-of-sequence included."""
    return np.full(length, 1.0 / totals.tokens, dtype=np.float32)
