"""Judged siblings of one prompt, and the groups of one step. In: trajectories with verdicts and rewards. Out: frozen
records."""

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


@dataclass(frozen=True, slots=True)
class StepGroups:
    """The judged groups of one training step, those of dynamic sampling's further rounds included."""

    learnt: list[Group]  # to learn from
    judged: list[Group]  # all, those that nobody learns from included
    rounds: int = 0  # of dynamic sampling
    asked: int = 0  # groups asked for in the rounds
    thrown: int = 0  # judged groups that nobody learns from
    given_up: int = 0  # sequences aborted
