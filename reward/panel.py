"""Spreads responses over reward actors and puts their verdicts back in order.

In: batches that were asked for, sampled or not. Out: verdicts, judged groups. Actors are handles (see
`rollout.sampler`). Must not know: Ray, how grading works.

Who waits for whom: an actor is asked for verdicts when the responses are asked for, and given them by the rollout
worker as soon as its share is sampled, not through this process. So grading goes on beside whatever the caller does,
and only the verdicts are waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.schema import RewardConf
from reward.group import Group
from reward.groups import group_trajectories
from reward.verdict import Verdict
from rollout.sampler import Handle, PendingBatch


@dataclass(slots=True)
class PendingVerdicts:
    """Verdicts asked for on a batch."""

    batch: PendingBatch
    calls: list[list[Any]]  # futures of each part's verdicts, in its order
    seconds: float = 0.0  # that grading took, of the slowest actor; known once waited for

    def wait(self) -> list[Verdict]:
        """Aligned with `batch.wait()`."""
        self.batch.wait()  # first: a sampler that failed is heard as such
        found: list[Verdict | None] = [None] * (len(self.batch.prompts) * self.batch.group_size)
        spent: dict[int, float] = {}  # by actor
        for part, futures in zip(self.batch.parts, self.calls, strict=True):
            shares = [future.wait() for future in futures]
            for place, verdict in zip(part.places, (v for share in shares for v in share.verdicts), strict=True):
                found[place] = verdict
            for actor, share in enumerate(shares):
                spent[actor] = spent.get(actor, 0.0) + share.seconds
        self.seconds = max(spent.values(), default=0.0)
        return [verdict for verdict in found if verdict is not None]


class Panel:
    """All reward actors."""

    def __init__(self, actors: list[Handle], conf: RewardConf):
        self.actors, self.conf = actors, conf

    def ask(self, batch: PendingBatch) -> PendingVerdicts:
        """Ask for verdicts on a batch; consecutive responses share an actor, and with it its cache."""
        calls = []
        for part in batch.parts:
            prompts = [batch.prompts[place // batch.group_size] for place in part.places]
            size = -(-len(prompts) // len(self.actors))
            calls.append(
                [
                    actor.call("judge_share", part.answer, prompts[i * size : (i + 1) * size], i * size)
                    for i, actor in enumerate(self.actors)
                    if i * size < len(prompts)
                ]
            )
        return PendingVerdicts(batch, calls)

    def score(self, verdicts: PendingVerdicts) -> list[Group]:
        return group_trajectories(verdicts.batch.wait(), verdicts.wait(), self.conf)
