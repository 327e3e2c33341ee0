"""Spreads trajectories over reward actors and puts their verdicts back in order.

In: trajectories. Out: judged groups. Actors are handles (see `rollout.sampler`). Must not know: Ray, how grading works.
"""

from __future__ import annotations

from conf.schema import RewardConf
from reward.group import Group
from reward.groups import group_trajectories
from reward.verdict import Verdict
from rollout.sampler import Handle
from rollout.trajectory import Trajectory


class Panel:
    """All reward actors."""

    def __init__(self, actors: list[Handle], conf: RewardConf):
        self.actors, self.conf = actors, conf

    def judge(self, trajectories: list[Trajectory]) -> list[Verdict]:
        """Verdicts aligned with the trajectories; consecutive ones share an actor, and with it its cache."""
        share = -(-len(trajectories) // len(self.actors))
        futures = [
            actor.call("judge", trajectories[i * share : (i + 1) * share])
            for i, actor in enumerate(self.actors)
            if i * share < len(trajectories)
        ]
        return [verdict for future in futures for verdict in future.wait()]

    def score(self, trajectories: list[Trajectory]) -> list[Group]:
        return group_trajectories(trajectories, self.judge(trajectories), self.conf)
