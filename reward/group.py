"""The graded siblings of one prompt, and the graded batch of one step.

In: trajectories and their verdicts, aligned. Out: frozen records. Must not know: texts, how verdicts are reached,
advantages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conf.schema import RewardConf
from reward.reward_function import reward_of
from reward.verdict import Outcome, Verdict
from rollout.prompt import Prompt
from rollout.trajectory import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The siblings of one prompt that got a verdict; those RAISED, TIMED_OUT or CRASHED are in `failed`.

    Example: rewards [1, -1, 0.5] are informative, [1, 1, 1] are not.
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
        return len(self.rewards) > 1 and bool((self.rewards != self.rewards[0]).any())


def group_trajectories(
    trajectories: Sequence[Trajectory], verdicts: Sequence[Verdict], conf: RewardConf
) -> list[Group]:
    """One `Group` per prompt uid, in order of first appearance, siblings in the order given.

    A sibling without a verdict (RAISED, TIMED_OUT, CRASHED) goes to `failed`; with reward.timeouts_as_no_answer one
    whose check timed out stays, as NO_ANSWER, where so many siblings gave the same answer. A group of which nothing
    else is left is kept, empty and uninformative, so that requested groups and trajectories can still be counted.
    """
    if len(trajectories) != len(verdicts):
        raise ValueError(f"{len(trajectories)} trajectories but {len(verdicts)} verdicts")
    members: dict[str, list[tuple[Trajectory, Verdict]]] = {}
    for pair in zip(trajectories, verdicts, strict=True):
        members.setdefault(pair[0].prompt.uid, []).append(pair)
    groups = []
    for pairs in members.values():
        if conf.timeouts_as_no_answer is not None:
            often = repeated_timeouts([verdict for _, verdict in pairs], conf.timeouts_as_no_answer)
            pairs = [
                (one, replace(verdict, outcome=Outcome.NO_ANSWER) if verdict in often else verdict)
                for one, verdict in pairs
            ]
        judged = [(trajectory, verdict) for trajectory, verdict in pairs if verdict.outcome.judged]
        rewards = [reward_of(conf, verdict, one.mode, len(one.token_ids)) for one, verdict in judged]
        group = Group(
            prompt=pairs[0][0].prompt,
            trajectories=tuple(trajectory for trajectory, _ in judged),
            verdicts=tuple(verdict for _, verdict in judged),
            rewards=np.array(rewards, np.float32),
            failed=tuple(verdict for _, verdict in pairs if not verdict.outcome.judged),
        )
        groups.append(group)
    return groups


def repeated_timeouts(verdicts: Sequence[Verdict], least: int = 2) -> list[Verdict]:
    """Those TIMED_OUT of a group whose answer at least `least` siblings gave."""
    late = [verdict for verdict in verdicts if verdict.outcome is Outcome.TIMED_OUT and verdict.extracted is not None]
    times = Counter(verdict.extracted for verdict in late)
    return [verdict for verdict in late if times[verdict.extracted] >= least]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedBatch:
    """What one training step learns from, and what it took to get it."""

    trajectories: list[Trajectory]  # of the batch itself, those without a verdict included
    judged: list[Group]  # all groups, those of dynamic sampling's further rounds included
    learnt: list[Group]  # those to learn from
    staleness: int = 0  # updates made since the oldest token's weights
    rounds: int = 0  # of dynamic sampling
    asked: int = 0  # groups requested in these rounds
    given_up: int = 0  # sequences of these rounds that were aborted
    begin: float = 0.0  # seconds since the epoch, when its caller began to wait for it
    sampling_s: float = 0.0  # from the first sequence to the last one, of the slowest worker; batches overlap
    grading_s: float = 0.0  # of the slowest reward actor; perhaps before `begin`
    tokens: int = 0  # response tokens
    workers: tuple[tuple[int, int, float], ...] = ()  # (rollout worker, tokens, seconds), one for each of its requests
    step: int = 0  # updates made before this batch is learnt from
    queued: int = 0  # batches requested and not learnt from, this one included
    ready: int = 0  # of these, how many are sampled
    bound: int = 0  # of staleness
