"""Batches in flight: at most `run.max_staleness` beyond the one that is learnt from next.

In: prompts, a sampler, a grader, which gets each batch once it is sampled. Out: judged batches in the order in which
they were requested, each whole and with its statistics. Must not know: what rewards are, the learner.

Why the bound holds: a batch that is requested when `step` updates are done is sampled by version `step` or newer (the
sampler's `min_version`), and it is consumed after at most `max_staleness` further updates, because no more batches than
that are before it. Batches are never consumed in the order in which they finish: that would prefer short answers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import Config
from orchestrator.base.errors import RunError
from orchestrator.training.dynamic_sampling import DynamicSampling
from reward.grader import Grader, PendingVerdicts
from reward.group import Group, JudgedBatch
from rollout.base.spans import FOR_TRAJECTORIES, FOR_VERDICTS, Spans
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class _InFlight:
    verdicts: PendingVerdicts
    cursor: dict[str, Any]  # of the stream, before its prompts were taken


class _Judged:
    """Waits for batches and their verdicts, and counts what they took."""

    def __init__(self, grader: Grader, spans: Spans):
        self.grader, self.spans = grader, spans
        self.sampling_s = self.grading_s = 0.0
        self.tokens = 0
        self.workers: list[tuple[int, int, float]] = []

    def groups(self, verdicts: PendingVerdicts) -> list[Group]:
        with self.spans.of(FOR_TRAJECTORIES):
            verdicts.batch.wait()
        with self.spans.of(FOR_VERDICTS):
            groups = self.grader.score(verdicts)
        self.grading_s += verdicts.seconds
        if stats := verdicts.batch.stats:
            self.sampling_s += stats.seconds
            self.tokens += stats.tokens
            self.workers += stats.workers
        return groups


class BatchQueue:
    def __init__(
        self,
        conf: Config,
        prompts: PromptStream,
        sampler: Sampler,
        grader: Grader,
        in_flight: Sequence[dict[str, Any]] = (),
        spans: Spans | None = None,
    ):
        """in_flight: the cursors of batches that were in flight when a checkpoint was saved; they are requested again
        first. spans: where waiting is recorded."""
        self.conf, self.prompts, self.sampler, self.grader = conf, prompts, sampler, grader
        self.dynamic_sampling = DynamicSampling(conf.rollout, prompts, sampler, grader)
        self.spans = spans or Spans()
        self._again = deque(in_flight)
        self._in_flight: deque[_InFlight] = deque()

    def next(self, step: int) -> JudgedBatch:
        """Wait for the oldest batch; dynamic sampling fills it up. step: updates done so far."""
        begin = time.time()
        self.ask(step)
        queued, ready = len(self._in_flight), sum(one.verdicts.batch.done() for one in self._in_flight)
        verdicts = self.oldest()
        judged = _Judged(self.grader, self.spans)
        groups = judged.groups(verdicts)
        filled = self.dynamic_sampling.fill(groups, step, judged.groups)
        return JudgedBatch(
            trajectories=verdicts.batch.wait(),
            judged=filled.judged,
            learnt=filled.learnt,
            staleness=self.measure([t for group in filled.learnt for t in group.trajectories], step),
            rounds=filled.rounds,
            asked=filled.asked,
            given_up=filled.given_up,
            begin=begin,
            sampling_s=judged.sampling_s,
            grading_s=judged.grading_s,
            tokens=judged.tokens,
            workers=tuple(judged.workers),
            step=step,
            queued=queued,
            ready=ready,
            bound=self.conf.run.max_staleness,
        )

    def ask(self, step: int) -> None:
        """Request batches until the queue is full. step: updates done so far, and the number of the next batch."""
        run, rollout = self.conf.run, self.conf.rollout
        while len(self._in_flight) <= min(run.max_staleness, run.steps - step - 1):
            if self._again:
                cursor = self._again.popleft()
                prompts = self.prompts.again(cursor, rollout.prompts_per_step)
            else:
                cursor, prompts = self.prompts.state(), self.prompts.take(rollout.prompts_per_step)
            batch = self.sampler.sample(prompts, rollout.group_size, step + len(self._in_flight))
            self._in_flight.append(_InFlight(self.grader.ask(batch), cursor))

    def oldest(self) -> PendingVerdicts:
        """Of the oldest batch, which leaves the queue."""
        return self._in_flight.popleft().verdicts

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the stream, and where the batches in flight began. JSON-able."""
        asked = [*(one.cursor for one in self._in_flight), *self._again]  # a resumed run may have a shorter queue
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
