"""The graded siblings of one prompt, and the groups of one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward.verdict import Verdict
from rollout.prompt import Prompt
from rollout.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The siblings of one prompt that got a verdict; those RAISED, TIMED_OUT or CRASHED are in `failed`.

    Example: rewards [1, -1, 0.5] have advantages [0.833, -1.167, 0.333] and are informative.
    """

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]  # [G']
    verdicts: tuple[Verdict, ...]  # [G'], aligned with trajectories
    rewards: np.ndarray  # f32[G']
    failed: tuple[Verdict, ...] = ()  # of the siblings without a verdict, each with its `Failure`

    @property
    def unjudged(self) -> int:
        """Siblings without a verdict."""
        return len(self.failed)

    @property
    def informative(self) -> bool:
        """Whether rewards differ: equal rewards give zero advantage and no gradient."""
        return len(self.rewards) > 1 and bool(np.any(self.rewards != self.rewards[0]))


@dataclass(frozen=True, slots=True)
class StepGroups:
    """The graded groups of one training step, including those of dynamic sampling's further rounds."""

    learnt: list[Group]  # to learn from
    judged: list[Group]  # all, including those that are not learnt from
    rounds: int = 0  # of dynamic sampling
    asked: int = 0  # groups requested in the rounds
    thrown: int = 0  # graded groups that are not learnt from
    given_up: int = 0  # sequences aborted
