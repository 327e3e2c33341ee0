"""Batches asked for ahead: at most `run.max_staleness` beyond the one that is learnt from next.

In: prompts, a sampler, the reward panel, which grades each batch once it is sampled. Out: batches in the order in which
they were asked for, each whole. Must not know: what rewards are, the learner.

Why the bound holds: a batch that is asked for when `step` updates are done is sampled by version `step` or newer (the
sampler's `min_version`), and it is consumed after at most `max_staleness` further updates, because no more batches than
that are before it. Batches are never consumed in the order in which they finish: that would prefer short answers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from conf.schema import Config
from orchestrator.base.errors import RunError
from reward.grader import Grader, PendingVerdicts
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class _InFlight:
    verdicts: PendingVerdicts
    cursor: dict[str, Any]  # of the stream, before its prompts were taken


class BatchQueue:
    """asked: the cursors of batches that were in flight when a checkpoint was saved; they are asked for again first."""

    def __init__(
        self, conf: Config, prompts: PromptStream, sampler: Sampler, grader: Grader, asked: list[dict[str, Any]]
    ):
        self.conf, self.prompts, self.sampler, self.grader = conf, prompts, sampler, grader
        self._again = deque(asked)
        self._in_flight: deque[_InFlight] = deque()

    def ask(self, step: int) -> None:
        """Fill the queue. step: updates done so far, and the number of the next batch to be consumed."""
        run, rollout = self.conf.run, self.conf.rollout
        while len(self._in_flight) <= min(run.max_staleness, run.steps - step - 1):
            if self._again:
                cursor = self._again.popleft()
                prompts = self.prompts.again(cursor, rollout.prompts_per_step)
            else:
                cursor, prompts = self.prompts.state(), self.prompts.take(rollout.prompts_per_step)
            batch = self.sampler.sample(prompts, rollout.group_size, step + len(self._in_flight))
            self._in_flight.append(_InFlight(self.grader.ask(batch), cursor))

    def next(self) -> PendingVerdicts:
        """Of the oldest batch, no longer in the queue."""
        return self._in_flight.popleft().verdicts

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the stream, and where the batches in flight began. JSON-able."""
        asked = [*(one.cursor for one in self._in_flight), *self._again]  # a resumed run may ask for fewer ahead
        return {"prompts": self.prompts.state(), "asked": asked}

    def measure(self, trajectories: list[Trajectory], step: int) -> int:
        """Updates done since the oldest token's weights. Raises RunError above the bound: that is a fault of ours."""
        oldest = min((int(t.versions.min()) for t in trajectories), default=step)
        if step - oldest > self.conf.run.max_staleness:
            raise RunError(
                f"a token sampled by version {oldest} was about to be learnt from after {step} updates: its staleness "
                f"{step - oldest} is above run.max_staleness={self.conf.run.max_staleness}; please report this"
            )
        return step - oldest
