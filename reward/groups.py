"""Trajectories with verdicts -> groups.

In: trajectories and their verdicts, aligned. Out: one `Group` per prompt uid, in order of first appearance, siblings in
the order given. A sibling whose check raised, timed out or crashed goes to `Group.failed`; a group without any other
sibling is kept, empty and uninformative, so that requested groups and trajectories can still be counted. Must not
know: texts, how verdicts are reached, advantages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conf.schema import RewardConf
from reward.group import Group
from reward.reward_function import reward_of
from reward.verdict import Verdict
from rollout.trajectory import Trajectory


def group_trajectories(
    trajectories: Sequence[Trajectory], verdicts: Sequence[Verdict], conf: RewardConf
) -> list[Group]:
    if len(trajectories) != len(verdicts):
        raise ValueError(f"{len(trajectories)} trajectories but {len(verdicts)} verdicts")
    members: dict[str, list[tuple[Trajectory, Verdict]]] = {}
    for pair in zip(trajectories, verdicts, strict=True):
        members.setdefault(pair[0].prompt.uid, []).append(pair)
    groups = []
    for pairs in members.values():
        judged = [(trajectory, verdict) for trajectory, verdict in pairs if verdict.outcome.judged]
        groups.append(
            Group(
                prompt=pairs[0][0].prompt,
                trajectories=tuple(trajectory for trajectory, _ in judged),
                verdicts=tuple(verdict for _, verdict in judged),
                rewards=np.array(
                    [reward_of(conf, verdict, one.mode, len(one.token_ids)) for one, verdict in judged], np.float32
                ),
                failed=tuple(verdict for _, verdict in pairs if not verdict.outcome.judged),
            )
        )
    return groups
