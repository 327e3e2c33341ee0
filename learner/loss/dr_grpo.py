"""Dr. GRPO, GRPO done right: one constant instead of each response's length (arXiv 2503.20783, section 3.2).

    w_t = 1 / (N * C)      for t = 0..T_i,      C = algorithm.length_constant, by default the longest response allowed

GRPO's 1 / (T_i + 1) penalizes long wrong answers less, so that they grow; a constant keeps the policy gradient unbiased
(up to a factor). The paper's other change, not dividing advantages by the standard deviation, applies to every
algorithm here. The paper trains without a KL term (algorithm.kl=0); if there is one, v_t = w_t.
"""

from __future__ import annotations

import numpy as np

from conf.schema import AlgorithmConf
from learner.loss import Totals


def token_weights(length: int, totals: Totals, conf: AlgorithmConf) -> np.ndarray:
    """Weights f32[length] of a trajectory of `length` = T_i + 1 tokens. conf.length_constant must be set."""
    if conf.length_constant is None:
        raise ValueError("algorithm.length_constant must be given (learner.objective fills in its default)")
    return np.full(length, 1.0 / (totals.trajectories * conf.length_constant), dtype=np.float32)


kl_weights = token_weights
