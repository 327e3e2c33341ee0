"""DeGRPO: the control token's loss decoupled from the response's (Thinkless, arXiv 2505.13379, eq. 6).

    paper form    w_0 = alpha / N,   w_t = 1 / (N * T_i)      for t = 1..T_i
    code form     w_0 = alpha / N,   w_t = 1 / sum_i T_i      (the reference code, over the whole optimizer step)

The KL term's weights v_t are those of GRPO in the same form, control token included. What matters is alpha times the
mean response length: about 10 routes reliably in the quickstart, about 1 behaves like GRPO.
"""

from __future__ import annotations

import numpy as np

from conf.schema import AlgorithmConf, Form
from learner.loss import Totals, grpo


def token_weights(length: int, totals: Totals, conf: AlgorithmConf) -> np.ndarray:
    """Weights f32[length] of a trajectory of `length` = T_i + 1 tokens.

    T_i = 0 (cut right after the control token): no response term.
    """
    weights = np.empty(length, dtype=np.float32)
    weights[0] = conf.alpha / totals.trajectories
    if length > 1:
        paper = conf.form is Form.paper
        weights[1:] = 1.0 / (totals.trajectories * (length - 1)) if paper else 1.0 / totals.response_tokens
    return weights


kl_weights = grpo.token_weights
