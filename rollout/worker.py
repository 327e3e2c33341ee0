"""One rollout worker: the class of a threaded Ray actor around one engine, usable without Ray.

In: requests and new weights, in any order and from any thread. Out: what was sampled, each token with the version of
the weights that sampled it. Must not know: other workers, rewards, Ray.

Who waits for whom: one thread owns the engine and steps it while there is anything to sample. Calls are queued
(`rollout.mailbox`) and wait for their answer; the engine thread runs them between two steps. Which sequences run is
`rollout.scheduler`'s. New weights are loaded at once, with sequences in flight going on after them
(`rollout.on_weight_sync`: keep, recompute), or when those in flight have ended, none beginning before (drain). While it
sleeps nothing is sampled: sequences stop in mid-answer, requests wait, and all go on once it is awake.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from conf.schema import ModelConf, OnWeightSync, RolloutConf
from rollout.base.errors import EngineDied
from rollout.base.spans import ASLEEP, NO_PROMPTS, NO_WEIGHTS, Pulse, Traced
from rollout.convert import engine_requests, rollout_result
from rollout.deferred_engine import DeferredEngine
from rollout.engine import SLEEP_TAGS, Engine
from rollout.mailbox import Mailbox
from rollout.mode import ControlTokens
from rollout.request import RolloutRequest, RolloutResult
from rollout.scheduler import InFlight, Scheduler
from rollout.usage import UsageLog, WorkerStatus
from rollout.weight_sync.weights import Offer, Weights


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """While an engine starts, a million objects are made that stay: Python's garbage collector would look through them
    again and again, a tenth of the start's processor time. (vLLM takes them out of its sight afterwards.)"""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class RolloutWorker(Traced):
    def __init__(
        self,
        conf: RolloutConf,
        model: ModelConf,
        path: str,
        control: ControlTokens,
        seed: int,
        current: Callable[[], Weights | None] | None = None,
        make_engine: Callable[..., Any] = Engine,
        may_start: Callable[[], bool] | None = None,
    ):
        """current: returns the newest weights, for a worker that starts again; None: it begins with those of `path`.
        may_start: whether the GPU is free for the engine; else it starts when `wake` gives it the whole GPU."""
        super().__init__()
        self.conf, self.control, self.seed = conf, control, seed
        self.mailbox, self.scheduler, self.usage = Mailbox(), Scheduler(conf), UsageLog()
        self._closing = self._stepping = False
        self._steps = 0  # of the engine
        self._make_engine = functools.partial(make_engine, conf, model, path, control.ends)
        self._current = current
        self.engine: Any  # of the thread that steps it
        started: Future[None] = Future()
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True, args=(started, may_start))
        self.thread.start()
        started.result()

    # ------------------------------------------------------------------ called from any thread

    def ready(self) -> int:
        return self.engine.version

    def pulse(self) -> Pulse:
        """Steps of the engine. (Loading weights, which may wait for the learner, has a limit of its own.)"""
        return Pulse(self.born, self._steps, self._stepping, time.process_time())

    def take_status(self) -> WorkerStatus:
        """What the engine did since the last call. Waits for nothing."""
        return self.usage.take(self.scheduler.queued, self.conf.device)

    def close(self) -> None:
        self._closing = True
        self.mailbox.submit(lambda: None)
        self.thread.join(timeout=30.0)

    def load(self, weights: Weights | Offer) -> float:
        """Load new weights; returns the seconds that the engine was busy with them."""

        def load() -> float:
            begin = time.monotonic()
            with self.spans.of("loading weights"):
                self._settle()
                self.engine.load(weights, recompute=self.conf.on_weight_sync is OnWeightSync.recompute)
            return time.monotonic() - begin

        return float(self.mailbox.submit(load, when_idle=self.conf.on_weight_sync is OnWeightSync.drain).result())

    def sample(self, request: RolloutRequest) -> RolloutResult:
        """One response for each sibling of the request; returns when all have ended. Raises EngineDied."""
        one = InFlight(request, engine_requests(request, self.control, self.seed))
        self.mailbox.submit(lambda: self.scheduler.admit(one)).result()
        one.done.result()
        return rollout_result(request, one.samples, self.control, one.begin)

    def abort(self, batch: int) -> int:
        """Give up what is unfinished of a batch: `sample` returns without it. Returns how many sequences that was."""

        def abort() -> int:
            self.engine.abort(self.scheduler.running_of(batch))
            return self.scheduler.give_up(batch)

        return int(self.mailbox.submit(abort).result())

    def sleep(self, keep: bool) -> None:
        """Leave the GPU, see `Engine.sleep`."""

        def sleep() -> None:
            self._settle()
            self.engine.sleep(keep)

        with self.spans.of("leaving the GPU"):
            self.mailbox.submit(sleep).result()

    def wake(self, tags: list[str] | None = None) -> None:
        """Take the GPU again, see `Engine.wake`."""

        def wake() -> None:
            if isinstance(self.engine, DeferredEngine) and "kv_cache" in (tags or SLEEP_TAGS):
                self.engine = self._started()
            else:
                self.engine.wake(tags)

        with self.spans.of("taking the GPU"):
            self.mailbox.submit(wake).result()

    # ------------------------------------------------------------------ the engine's thread

    def _started(self) -> Any:
        """An engine with the newest weights."""
        with without_collections():
            engine = self._make_engine()
        weights = self._current() if self._current else None
        if weights is not None:
            engine.load(weights)
        return engine

    def _run(self, started: Future[None], may_start: Callable[[], bool] | None) -> None:
        try:
            self.engine = self._started() if may_start is None or may_start() else DeferredEngine()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while not self._closing:
                self._step()
            died = EngineDied("the rollout worker was closed")
        except BaseException as error:
            if self.conf.max_restarts:  # Ray restarts this process and repeats the calls that it had not answered
                traceback.print_exc()
                os._exit(1)
            died = EngineDied(f"the sampling engine failed: {type(error).__name__}: {error}")
            died.__cause__ = error
        self.mailbox.close(died)
        self.scheduler.fail(died)
        self.engine.close()

    def _step(self) -> None:
        """Run queued calls, begin what may begin, and sample one token for each running sequence."""
        scheduler = self.scheduler
        if not (self._may_sample() or self.mailbox.draining):
            with self.spans.of(self._idle()):
                self.mailbox.wait()
        self.mailbox.run_queued(lambda: bool(scheduler.running))
        if not self._may_sample():
            return
        with self.spans.of("sampling"):
            begun = [] if self.mailbox.draining else scheduler.begin(self.engine.version)
            for key, request in begun:
                self.engine.add(key, request)
            begin, sequences = time.monotonic(), len(scheduler.running)
            self._stepping = True
            done = self.engine.step()
            self._stepping, self._steps = False, self._steps + 1
            self.usage.note(self.engine.usage.now())
        if not begun:
            scheduler.note_step(sequences, time.monotonic() - begin)
        for key, sample in done:
            scheduler.end(key, sample)

    def _idle(self) -> str:
        """Why there is nothing to sample: the kind of the span."""
        return ASLEEP if not self.engine.awake else NO_WEIGHTS if self.scheduler.waiting else NO_PROMPTS

    def _settle(self) -> None:
        for key, sample in self.engine.settle():
            self.scheduler.end(key, sample)

    def _may_sample(self) -> bool:
        """There is something to sample, and the engine is awake."""
        something = self.scheduler.running or self.scheduler.may_begin(self.engine.version)
        return self.engine.awake and bool(something)
