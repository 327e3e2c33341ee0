"""All reward actors: distributes responses over them and puts their verdicts back in order.

In: requested batches, sampled or not. Out: verdicts, groups. Actors are handles (see `rollout.base.handle`). Must not
know: Ray, how grading works.

Who waits for whom: verdicts are requested together with the responses, and Ray passes a rollout worker's result to the
reward actor as soon as it exists, without pickling it here again. So grading overlaps whatever the caller does, and
only the verdicts are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import RewardConf
from reward.group import Group, group_trajectories
from reward.verdict import Verdict
from rollout.base.handle import Handle
from rollout.prompt import Prompt
from rollout.sampler import Part, PendingBatch


@dataclass(slots=True)
class PendingVerdicts:
    """Requested verdicts of a batch."""

    batch: PendingBatch
    calls: list[list[tuple[int, Any]]]  # (actor, future) of each part's verdicts, in the part's order
    seconds: float = 0.0  # of grading, of the slowest actor; set by `wait`

    def wait(self) -> list[Verdict]:
        """Aligned with `batch.wait()`."""
        self.batch.wait()  # first, so that a sampler's failure is reported as such
        found: list[Verdict | None] = [None] * (len(self.batch.prompts) * self.batch.group_size)
        spent: dict[int, float] = {}  # by actor
        for part, calls in zip(self.batch.parts, self.calls, strict=True):
            verdicts: list[Verdict | None] = []
            for actor, future in calls:
                judged = future.wait()
                verdicts += judged.verdicts
                spent[actor] = spent.get(actor, 0.0) + judged.seconds
            for place, verdict in zip(part.places, verdicts, strict=True):
                found[place] = verdict
        self.seconds = max(spent.values(), default=0.0)
        return [verdict for verdict in found if verdict is not None]


class Grader:
    """All reward actors."""

    def __init__(self, actors: Sequence[Handle], conf: RewardConf):
        self.actors, self.conf = actors, conf
        self._calls = 0  # calls so far: actors are used in rotation

    def ask(self, batch: PendingBatch) -> PendingVerdicts:
        """Request verdicts for a batch; siblings go to one actor, and so share its cache."""
        calls = []
        for part in batch.parts:
            prompts = [batch.prompts[place // batch.group_size] for place in part.places]
            size = -(-len(prompts) // (len(self.actors) * batch.group_size)) * batch.group_size
            calls.append([self._call(part, prompts[i : i + size], i) for i in range(0, len(prompts), size)])
        return PendingVerdicts(batch, calls)

    def _call(self, part: Part, prompts: list[Prompt], first: int) -> tuple[int, Any]:
        actor = self._calls % len(self.actors)
        self._calls += 1
        return actor, self.actors[actor].call("grade_request", part.answer, prompts, first)

    def score(self, verdicts: PendingVerdicts) -> list[Group]:
        return group_trajectories(verdicts.batch.wait(), verdicts.wait(), self.conf)
