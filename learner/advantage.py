"""Advantages of siblings (Thinkless: A_i = r_i - mean of its group; no division by the standard deviation).

In: groups. Out: one float per sibling. Must not know: tokens, packing.
"""

from __future__ import annotations

import numpy as np

from reward.group import Group


def advantages(group: Group) -> np.ndarray:
    """f32[G'] for the group's graded siblings, e.g. rewards [1, -1, 0.5] -> [0.833, -1.167, 0.333]."""
    rewards = group.rewards.astype(np.float64)
    return (rewards - rewards.mean()).astype(np.float32)
