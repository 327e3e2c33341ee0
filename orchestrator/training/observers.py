"""All observers of a run as one: tracker, recorder, validation, log-prob check and whatever comes.

In: the loop's moments. Out: the same for each observer, in the order of the list, with the step's figures. Must not
know: what the observers do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from learner.metrics.report import StepReport
from orchestrator.base.observer import FinishedStep, Observer
from orchestrator.tracking.metrics import distributions, summarize
from orchestrator.tracking.sinks.background import threads_cpu_s
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.workers import Workers
from reward.group import JudgedBatch
from rollout.mode import MODES, Mode


class Observers:
    def __init__(
        self,
        timeline: Timeline,
        observers: Sequence[Observer],
        workers: Workers | None = None,
        modes: Sequence[Mode] = MODES,
        check: Callable[[], None] = lambda: None,
    ):
        """check: raises when the run's folder is not there any more, before anything is written for a step, and
        before its checkpoint is."""
        self.check = check
        self.timeline, self.observers, self.workers = timeline, observers, workers or Workers([])
        self.modes = modes
        self._spent: dict[str, float | None] = {"tracking/seconds": None, "tracking/cpu_seconds": None}  # step before
        self._threads = threads_cpu_s()

    def begin(self, step: int) -> None:
        for observer in self.observers:
            observer.begin(step)

    def step(self, step: int, batch: JudgedBatch, report: StepReport | None) -> None:
        self.check()
        begin, cpu = time.perf_counter(), time.thread_time()
        window = (batch.begin, max(batch.begin, time.time()))  # a clock that was set back makes no negative step
        spans, busy = self.timeline.step(step, window)
        values = distributions(batch, self.modes)
        figures = summarize(batch, report, spans, window, values, self.modes) | busy | self.workers.step()
        done = FinishedStep(step, batch, report, figures | self._spent, values)
        for observer in self.observers:
            observer.step(done)
        self.timeline.ask(window[1])
        self.workers.ask()
        before, self._threads = self._threads, threads_cpu_s()
        threads = max(0.0, self._threads - before)  # one may have ended
        self._spent["tracking/cpu_seconds"] = time.thread_time() - cpu + threads
        self._spent["tracking/seconds"] = time.perf_counter() - begin

    def after_step(self, step: int) -> None:
        for observer in self.observers:
            observer.after_step(step)
        self.check()
