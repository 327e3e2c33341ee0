"""Judged siblings of one prompt. In: trajectories with verdicts and rewards. Out: frozen `Group` records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward.verdict import Verdict
from rollout.prompt import Prompt
from rollout.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The siblings of one prompt that got a verdict; those RAISED, TIMED_OUT or CRASHED have left, see `failed`.

    Example: rewards [1, -1, 0.5] have advantages [0.833, -1.167, 0.333] and are informative.
    """

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]  # [G']
    verdicts: tuple[Verdict, ...]  # [G'], aligned with trajectories
    rewards: np.ndarray  # f32[G']
    failed: tuple[Verdict, ...] = ()  # of the siblings that left, each with its `Failure`

    @property
    def unjudged(self) -> int:
        """Siblings without a verdict."""
        return len(self.failed)

    @property
    def informative(self) -> bool:
        """Whether rewards differ: equal rewards have zero advantage and carry no gradient."""
        return len(self.rewards) > 1 and bool(np.any(self.rewards != self.rewards[0]))
