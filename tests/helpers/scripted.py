"""An engine that follows a script instead of a model, and what it wrote down while it did.

Its answers are a pure function of a request's seed (`answer`), each log-prob a function of the version too
(`logprob`), so that a trajectory can be checked token by token without asking the engine, and against the engine's own
notes (`Notes`) as well. Steps may sleep, wait at a gate, or fail.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from conf.schema import DataConf, ModelConf, OnWeightSync, RolloutConf
from rollout.data.problems import Problem
from rollout.data.stream import PromptStream
from rollout.engine import Request, Sample
from rollout.mode import ControlTokens
from rollout.prompt import Prompt
from rollout.request import SamplingParams, derive_seed
from rollout.trajectory import Finish, Trajectory
from rollout.usage import Usage
from rollout.weight_sync.weights import Weights
from rollout.worker import RolloutWorker
from tests.helpers.handles import LocalFuture

RUN_SEED = 5
CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)
PATIENCE_S = 60.0  # no schedule takes a tenth of it on a busy machine: whoever waits longer is stuck


def draw(*key: Any) -> float:
    """A number in [0, 1) that follows from the key."""
    (bits,) = struct.unpack("<Q", hashlib.blake2b(repr(key).encode(), digest_size=8).digest())
    return float(bits >> 11) / 2**53


def answer(seed: int, longest: int, caps: dict[int, int], typical: float = 6.0) -> tuple[list[int], bool]:
    """Ids after the prompt, and whether the last is end-of-sequence. Lengths are log-normal: most short, some huge."""
    first = (CONTROL.think, CONTROL.short, 7)[int(3 * draw(seed, "mode"))]
    normal = np.sqrt(-2 * np.log(1 - draw(seed, 1))) * np.cos(2 * np.pi * draw(seed, 2))
    length, limit = 2 + int(typical * np.exp(1.2 * normal)), min(longest, caps.get(first, longest))
    ids = [first, *(8 + int(250 * draw(seed, "id", t)) for t in range(1, min(length, limit)))]
    if length <= limit:
        ids[-1] = CONTROL.eos
    return ids, length <= limit


def logprob(seed: int, t: int, version: int) -> float:
    return float(np.float32(-draw(seed, t, "at", version)))


@dataclass(eq=False)
class Notes:
    """What an engine did, in order; and what it is to do."""

    begun: list[tuple[int, int]] = field(default_factory=list)  # (seed, version)
    ended: list[int] = field(default_factory=list)  # seeds
    versions: dict[int, list[list[int]]] = field(default_factory=dict)  # seed -> of each token, for each time it began
    loads: list[tuple[int, int]] = field(default_factory=list)  # (version, sequences under way)
    sleeps: list[int] = field(default_factory=list)  # sequences under way
    most: int = 0  # sequences side by side
    steps: int = 0
    closed: bool = False
    pause: Callable[[int], float] = lambda step: 0.0  # seconds before step n; below 0: none
    fail_at: int | None = None  # step that raises
    broken: int | None = None  # version that cannot be loaded
    gate: threading.Semaphore | None = None  # each step takes one
    at_gate: bool = False


def scripted_weights(version: int) -> Weights:
    return Weights(version, (), ())


@dataclass(slots=True, eq=False)
class _UnderWay:
    request: Request
    ids: list[int]
    stopped: bool
    versions: list[int] = field(default_factory=list)


class ScriptedEngine:
    """The interface of `rollout.engine.Engine` that a worker uses. It insists on its rules: one thread, no more
    sequences than `max_num_seqs`, no load among running ones when they are to drain, nothing but loads while it
    sleeps."""

    def __init__(self, notes: Notes, conf: RolloutConf, model: ModelConf, path: str, ends: tuple[int, ...]):
        assert tuple(ends) == CONTROL.ends
        self.notes, self.conf, self.version = notes, conf, 0
        self._owner = threading.get_ident()
        self._under_way: dict[int, _UnderWay] = {}
        self.usage = self  # what a worker reads `now` from
        self._asleep: set[str] = set()
        self._dropped = False

    @property
    def awake(self) -> bool:
        return not self._asleep

    @property
    def unfinished(self) -> int:
        return len(self._under_way)

    def add(self, key: int, request: Request) -> None:
        self._mine()
        assert self.awake
        assert key not in self._under_way and len(self._under_way) < self.conf.max_num_seqs
        ids, stopped = answer(request.seed, request.max_tokens, dict(request.caps))
        one = self._under_way[key] = _UnderWay(request, ids, stopped)
        self.notes.begun.append((request.seed, self.version))
        self.notes.versions.setdefault(request.seed, []).append(one.versions)
        self.notes.most = max(self.notes.most, len(self._under_way))

    def step(self) -> list[tuple[int, Sample]]:
        self._mine()
        assert self._under_way and self.awake
        if self.notes.gate is not None:
            self.notes.at_gate = True
            assert self.notes.gate.acquire(timeout=PATIENCE_S)
            self.notes.at_gate = False
        if (seconds := self.notes.pause(self.notes.steps)) >= 0:
            time.sleep(seconds)
        self.notes.steps += 1
        if self.notes.steps == self.notes.fail_at:
            raise ZeroDivisionError("as the script says")
        done = []
        for key, one in list(self._under_way.items()):
            one.versions.append(self.version)
            if len(one.versions) == len(one.ids):
                del self._under_way[key]
                self.notes.ended.append(one.request.seed)
                done.append((key, _sample(one)))
        return done

    def now(self) -> Usage:
        self._mine()
        return Usage(len(self._under_way), 0, len(self._under_way) / self.conf.max_num_seqs, 0, 8 * self.version)

    def settle(self) -> list[tuple[int, Sample]]:
        self._mine()
        return []

    def abort(self, keys: Sequence[int]) -> None:
        self._mine()
        for key in keys:
            del self._under_way[key]

    def load(self, weights: Weights, recompute: bool = False) -> None:
        self._mine()
        assert "weights" not in self._asleep
        assert recompute == (self.conf.on_weight_sync is OnWeightSync.recompute)
        assert not (self.conf.on_weight_sync is OnWeightSync.drain and self._under_way)
        if weights.version == self.notes.broken:
            raise ValueError(f"broken weights of version {weights.version}")
        self.version, self._dropped = weights.version, False
        self.notes.loads.append((weights.version, len(self._under_way)))

    def sleep(self, keep: bool) -> None:
        self._mine()
        assert not self._under_way or self.conf.on_weight_sync is OnWeightSync.recompute
        self.notes.sleeps.append(len(self._under_way))
        self._asleep, self._dropped = {"weights", "kv_cache"}, self._dropped or not keep

    def wake(self, tags: Sequence[str] | None = None) -> None:
        self._mine()
        self._asleep -= set(tags or self._asleep)
        assert self._asleep or not self._dropped

    def close(self) -> None:
        self.notes.closed = True

    def _mine(self) -> None:
        assert threading.get_ident() == self._owner, "the engine belongs to one thread"


def _sample(one: _UnderWay) -> Sample:
    logprobs = [logprob(one.request.seed, t, version) for t, version in enumerate(one.versions)]
    return Sample(
        np.array(one.ids, np.int32),
        np.array(logprobs, np.float32),
        np.array(one.versions, np.int32),
        one.stopped,
        False,
    )


class ThreadFuture:
    def __init__(self, future: Future[Any]):
        self.future = future

    def wait(self) -> Any:
        try:
            return self.future.result(PATIENCE_S)
        except TimeoutError:
            raise AssertionError(f"stuck: no answer within {PATIENCE_S:g} s") from None

    def done(self) -> bool:
        return self.future.done()


class ThreadHandle:
    """A body called as a threaded actor is: each call in a thread of its own, arguments waited for, in no order."""

    def __init__(self, body: Any, delay: Callable[[], float] = lambda: -1.0):
        self.body, self.delay = body, delay

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> ThreadFuture:
        def run() -> Any:
            values = [arg.wait() if isinstance(arg, (ThreadFuture, LocalFuture)) else arg for arg in args]
            if (seconds := self.delay()) >= 0:
                time.sleep(seconds)
            return getattr(self.body, method)(*values)

        return in_thread(run)


def in_thread(run: Callable[[], Any]) -> ThreadFuture:
    """Called in a thread of its own, which keeps nothing from ending when it is stuck."""
    future: Future[Any] = Future()

    def go() -> None:
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=go, daemon=True).start()
    return ThreadFuture(future)


def counted(size: int) -> PromptStream:
    """Prompts 0, 1, 2, ... in order, of three levels."""
    rows = [Problem(f"counted/{i}", "?", "1", "counted", f"level {i % 3}") for i in range(size)]
    return PromptStream(rows, lambda problem: np.array([2, 8, 3], np.int32), DataConf(shuffle=False), 0)


def number_of(prompt: Prompt) -> int:
    """Of a prompt of `counted`."""
    return int(prompt.uid.removeprefix("counted/").partition("#")[0])


def prompt(number: int, level: str | None = None, source: str = "counted") -> Prompt:
    ids = np.array([2, 8 + number % 200, 8 + number // 200 % 200, 3], np.int32)
    return Prompt(f"{source}/{number}", "?", ids, "1", source, level)


def make_worker(notes: Notes, conf: RolloutConf) -> RolloutWorker:
    return RolloutWorker(conf, ModelConf(), "", CONTROL, RUN_SEED, make_engine=partial(ScriptedEngine, notes))


def pauses(rng: random.Random) -> Callable[[int], float]:
    """A worker's pace: at once, in turns with others, or with stalls."""
    kind, mine = rng.choice(["fast", "fair", "slow", "stalls"]), random.Random(rng.random())

    def pause(step: int) -> float:
        if kind == "fast" or step > 400:
            return -1.0
        if kind == "fair":
            return 0.0
        if kind == "slow":
            return 0.0001
        return 0.004 if mine.random() < 0.02 else -1.0

    return pause


# ---------------------------------------------------------------------- what must be true of a trajectory


def check_trajectory(t: Trajectory, step: int, sampling: SamplingParams, notes: Notes) -> None:
    """Tokens of its seed, versions as the engine wrote them down, log-probs that show them, neither early nor late."""
    seed = derive_seed(RUN_SEED, t.prompt.uid, t.sibling, step)
    limits = {CONTROL.short: sampling.max_tokens_short, CONTROL.think: sampling.max_tokens_think}
    forced = [CONTROL.id_of(sampling.mode)] if sampling.mode else []
    longest = min(sampling.max_response_tokens, (forced and limits[forced[0]]) or sampling.max_response_tokens)
    caps = {} if forced else {token: limit for token, limit in limits.items() if limit}
    ids, stopped = answer(seed, longest - len(forced), caps)
    assert t.token_ids.tolist() == forced + ids
    assert t.finish is (Finish.STOP if stopped else Finish.LENGTH)
    assert t.mode == CONTROL.mode_of(t.token_ids[0]) and t.forced == bool(forced)
    versions = t.versions.tolist()
    assert versions[len(forced) :] in notes.versions[seed], (versions, notes.versions[seed])
    assert versions[: len(forced)] == versions[len(forced) : 2 * len(forced)]
    assert all(a <= b for a, b in pairwise(versions)), versions
    assert t.behavior_logprobs.tolist()[len(forced) :] == [
        logprob(seed, i, version) for i, version in enumerate(versions[len(forced) :])
    ]
    assert t.behavior_logprobs.tolist()[: len(forced)] == [0.0] * len(forced)


def check_left_over(worker: RolloutWorker, notes: Notes) -> None:
    """Nothing, and no more was done than the configuration allows."""
    worker.abort(-1)  # a turn of the engine's thread: what it was about to write is written
    assert worker.scheduler.empty and not worker.mailbox.draining
    assert worker.engine.unfinished == 0
    assert notes.most <= worker.conf.max_num_seqs
    assert all(older <= newer for (older, _), (newer, _) in pairwise(notes.loads)), notes.loads
    if worker.conf.on_weight_sync is OnWeightSync.drain:
        assert all(under_way == 0 for _, under_way in notes.loads)
        assert all(len(set(versions)) <= 1 for begun in notes.versions.values() for versions in begun)
    worker.close()
    assert notes.closed and not worker.thread.is_alive()
