"""Plain GRPO: the mean over a response's tokens, control token included (DeepSeekMath, arXiv 2402.03300, eq. 3).

    paper form    w_t = 1 / (N * (T_i + 1))          for t = 0..T_i
    code form     w_t = 1 / sum_i (T_i + 1)          (token mean over the optimizer step, as in DAPO, arXiv 2503.14476)

The KL term's weights v_t are the same. Advantages are not divided by the standard deviation (see `learner.advantage`),
as in Thinkless.
"""

from __future__ import annotations

import numpy as np

from conf.schema import AlgorithmConf, Form
from learner.loss import Totals


def token_weights(length: int, totals: Totals, conf: AlgorithmConf) -> np.ndarray:
    """Weights f32[length] of a trajectory of `length` = T_i + 1 tokens."""
    weight = 1.0 / (totals.trajectories * length) if conf.form is Form.paper else 1.0 / totals.tokens
    return np.full(length, weight, dtype=np.float32)


kl_weights = token_weights
