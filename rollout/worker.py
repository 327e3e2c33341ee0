"""One rollout worker: the body of a threaded Ray actor around one engine, and as good without Ray.

In: requests and new weights, in any order and from any thread. Out: what was sampled, each token with the version of
the weights that sampled it. Must not know: other workers, rewards, Ray.

Who waits for whom: one thread owns the engine and steps it while there is anything to sample. Calls are queued and wait
for their answer; the engine thread drains the queue between two steps. Sequences of several requests run side by side:
those of older batches begin first, within a request in the order given. A sequence begins once the engine has at least
the weights its request asks for. New weights are loaded at once, with sequences under way going on after them
(`rollout.on_weight_sync`: keep, recompute), or when those under way have ended, none beginning before (drain).
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conf.schema import ModelConf, OnWeightSync, RolloutConf
from rollout.base.errors import EngineDied
from rollout.base.spans import Traced
from rollout.engine import Engine, Request, Sample
from rollout.mode import ControlTokens, Mode
from rollout.request import MODES, RolloutRequest, RolloutResult, derive_seed
from rollout.step_time import StepTime
from rollout.weight_sync.weights import Offer, Weights


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A request being sampled, and the call that waits for it."""

    request: RolloutRequest
    requests: list[Request]
    samples: dict[int, Sample] = field(default_factory=dict)  # by place in the share
    begun: int = 0  # of the requests
    begin: float | None = None
    answer: Future[_UnderWay] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Call:
    """Something for the engine's thread to do between two steps."""

    do: Callable[[], Any]
    answer: Future[Any]
    when_empty: bool = False  # not before all sequences under way have ended, and none begins until then


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
    ):
        """current: asked for the newest weights when the worker starts (again); None: it begins with those of
        `path`."""
        super().__init__()
        self.conf, self.control, self.seed = conf, control, seed
        self._inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._waiting: list[tuple[int, int, _UnderWay]] = []  # sorted: batch, order of arrival, share not all begun
        self._arrivals = itertools.count()
        self._keys = itertools.count()
        self._running: dict[int, tuple[_UnderWay, int]] = {}  # engine's key -> share, place in it
        self._shares: dict[_UnderWay, None] = {}  # unfinished, oldest first
        self._postponed: list[_Call] = []  # for when nothing runs
        self._pace = StepTime()
        self._closing = False
        self._death: BaseException | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run,
            name="engine",
            daemon=True,
            args=(started, functools.partial(make_engine, conf, model, path, control.ends), current),
        )
        self._thread.start()
        started.result()

    # ------------------------------------------------------------------ called from any thread

    def ready(self) -> int:
        return self.engine.version

    def close(self) -> None:
        self._closing = True
        self._inbox.put(_Call(lambda: None, Future()))
        self._thread.join(timeout=30.0)

    def load(self, weights: Weights | Offer) -> float:
        """Take new weights; returns the seconds that the engine was busy with them."""

        def take() -> float:
            begin = time.monotonic()
            with self.spans.of("loading weights"):
                self.engine.load(weights, recompute=self.conf.on_weight_sync is OnWeightSync.recompute)
            return time.monotonic() - begin

        return float(self._call(take, when_empty=self.conf.on_weight_sync is OnWeightSync.drain))

    def sample(self, request: RolloutRequest) -> RolloutResult:
        """One response for each sibling of the share; returns when all have ended. Raises EngineDied."""
        one = _UnderWay(request, self._requests(request))
        self._call(lambda: self._admit(one))
        return self._sampled(one.answer.result())

    def abort(self, batch: int) -> int:
        """Give up what is unfinished of a batch: `sample` returns without it. Returns how many sequences that was."""
        return int(self._call(lambda: self._give_up(batch)))

    def sleep(self, keep: bool) -> None:
        """Leave the GPU, see `Engine.sleep`. RuntimeError while sequences are under way."""
        with self.spans.of("leaving the GPU"):
            self._call(lambda: self.engine.sleep(keep))

    def wake(self, tags: list[str] | None = None) -> None:
        """Take the GPU again, see `Engine.wake`."""
        with self.spans.of("taking the GPU"):
            self._call(lambda: self.engine.wake(tags))

    # ------------------------------------------------------------------ the engine's thread

    def _call(self, do: Callable[[], Any], when_empty: bool = False) -> Any:
        answer: Future[Any] = Future()
        self._inbox.put(_Call(do, answer, when_empty))
        if self._death is not None:  # it may have died before it saw this call
            self._fail_all()
        return answer.result()

    def _run(
        self, started: Future[None], make_engine: Callable[[], Any], current: Callable[[], Weights | None] | None
    ) -> None:
        try:
            self.engine = make_engine()
            weights = current() if current else None
            if weights is not None:
                self.engine.load(weights)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while not self._closing:
                self._turn()
            self._death = EngineDied("the rollout worker was closed")
        except BaseException as error:
            if self.conf.max_restarts:  # Ray starts this process again, and asks again for what it was asked for
                traceback.print_exc()
                os._exit(1)
            self._death = EngineDied(f"the sampling engine failed: {type(error).__name__}: {error}")
            self._death.__cause__ = error
        self._fail_all()
        self.engine.close()

    def _turn(self) -> None:
        """Serve the inbox, begin what may begin, and let the engine sample one token for each sequence under way."""
        self._serve()
        if not self._running and not self._may_begin():
            return
        with self.spans.of("sampling"):
            begun = self._begin()
            begin, sequences = time.monotonic(), len(self._running)
            done = self.engine.step()
        if not begun:
            self._pace.note(sequences, time.monotonic() - begin)
        for key, sample in done:
            self._end(key, sample)

    def _serve(self) -> None:
        """Do all calls in the inbox; wait for one when there is nothing to sample."""
        idle = not self._running and not self._may_begin() and not self._postponed
        waiting = time.time() if idle and self._waiting else None
        while idle or not self._inbox.empty():
            call = self._inbox.get()
            idle = False
            if waiting is not None:
                self.spans.add("waiting for weights", waiting, time.time())
            if call.when_empty and (self._running or self._postponed):
                self._postponed.append(call)
            else:
                self._do(call)
        if self._postponed and not self._running:
            for call in self._postponed:
                self._do(call)
            self._postponed.clear()

    @staticmethod
    def _do(call: _Call) -> None:
        """The answer or the exception is returned to the caller."""
        try:
            call.answer.set_result(call.do())
        except Exception as error:
            call.answer.set_exception(error)

    def _admit(self, one: _UnderWay) -> None:
        self._shares[one] = None
        if not one.requests:
            self._finish(one)
        else:
            bisect.insort(self._waiting, (one.request.batch, next(self._arrivals), one))

    def _may_begin(self) -> list[_UnderWay]:
        """Shares that have sequences to begin and whose weights are there, oldest batch first."""
        return [one for _, _, one in self._waiting if one.request.min_version <= self.engine.version]

    def _begin(self) -> int:
        """Begin what there is room for; returns how many sequences."""
        room = 0 if self._postponed else self.conf.max_num_seqs - len(self._running)
        if room <= 0 or not self._waiting:
            return 0
        before = len(self._running)
        for one in self._may_begin():
            room = min(room, self._room_beside_older(one))
            if room <= 0:
                break
            one.begin = one.begin or time.time()
            for place in range(one.begun, min(one.begun + room, len(one.requests))):
                key = next(self._keys)
                self.engine.add(key, one.requests[place])
                self._running[key] = (one, place)
                one.begun, room = place + 1, room - 1
            if not room:
                break
        self._waiting = [entry for entry in self._waiting if entry[2].begun < len(entry[2].requests)]
        return len(self._running) - before

    def _room_beside_older(self, one: _UnderWay) -> int:
        """Sequences of this share that may begin without slowing older batches too much (`rollout.slowdown`)."""
        most, slowdown = float(self.conf.max_num_seqs), self.conf.slowdown
        older = sum(o.request.batch < one.request.batch for o, _ in self._running.values())
        if slowdown is None or not older:
            return int(most)
        return int(max(0, min(most, self._pace.beside(older, slowdown) - len(self._running))))

    def _end(self, key: int, sample: Sample) -> None:
        one, place = self._running.pop(key)
        one.samples[place] = sample
        if len(one.samples) == len(one.requests):
            self._finish(one)

    def _finish(self, one: _UnderWay) -> None:
        del self._shares[one]
        one.answer.set_result(one)

    def _give_up(self, batch: int) -> int:
        doomed = [one for one in self._shares if one.request.batch == batch]
        keys = [key for key, (one, _) in self._running.items() if one.request.batch == batch]
        self.engine.abort(keys)
        for key in keys:
            del self._running[key]
        lost = 0
        self._waiting = [entry for entry in self._waiting if entry[0] != batch]
        for one in doomed:
            lost += len(one.requests) - len(one.samples)
            self._finish(one)
        return lost

    def _fail_all(self) -> None:
        """Nobody waits for a dead engine."""
        assert self._death is not None
        for call in self._postponed:
            _set_error(call.answer, self._death)
        with contextlib.suppress(queue.Empty):  # its thread and callers that came too late may be here at once
            while True:
                _set_error(self._inbox.get_nowait().answer, self._death)
        for one in list(self._shares):
            _set_error(one.answer, self._death)

    def _requests(self, request: RolloutRequest) -> list[Request]:
        sampling = request.sampling
        forced = [self.control.id_of(sampling.mode)] if sampling.mode else []
        limits = {Mode.SHORT: sampling.max_tokens_short, Mode.THINK: sampling.max_tokens_think}
        longest = sampling.max_response_tokens
        if sampling.mode:
            longest = min(longest, limits[sampling.mode] or longest)
            limits = {}
        caps = {self.control.id_of(mode): limit for mode, limit in limits.items() if limit}
        heads = [[*prompt.token_ids.tolist(), *forced] for prompt in request.prompts]
        return [
            Request(
                heads[p],
                longest - len(forced),
                sampling.temperature,
                sampling.top_p,
                derive_seed(self.seed, request.prompts[p].uid, sibling, request.step),
                caps,
            )
            for p, sibling in request.siblings
        ]

    def _sampled(self, one: _UnderWay) -> RolloutResult:
        mode = one.request.sampling.mode
        forced = [self.control.id_of(mode)] if mode else []
        ids: list[np.ndarray] = []
        logprobs: list[np.ndarray] = []
        versions: list[np.ndarray] = []
        count = len(one.requests)
        lengths, modes, finishes = np.zeros(count, np.int32), np.full(count, 2, np.uint8), np.full(count, 2, np.uint8)
        for place, sample in sorted(one.samples.items()):
            if forced:
                ids.append(np.array(forced, np.int32))
                logprobs.append(np.zeros(1, np.float32))
                versions.append(sample.versions[:1])
            ids.append(sample.token_ids)
            logprobs.append(sample.logprobs)
            versions.append(sample.versions)
            lengths[place] = len(forced) + len(sample.token_ids)
            modes[place] = MODES.index(self.control.mode_of(forced[0] if forced else int(sample.token_ids[0])))
            finishes[place] = 0 if sample.stopped else 2 if sample.aborted else 1
        return RolloutResult(
            lengths,
            np.concatenate(ids) if ids else np.empty(0, np.int32),
            np.concatenate(logprobs) if ids else np.empty(0, np.float32),
            np.concatenate(versions) if ids else np.empty(0, np.int32),
            modes,
            finishes,
            bool(forced),
            int(lengths.sum()) - len(forced) * len(one.samples),
            one.begin or time.time(),
            time.time(),
        )


def _set_error(answer: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # it has its answer
        answer.set_exception(error)
