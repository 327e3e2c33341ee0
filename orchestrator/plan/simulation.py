"""A discrete-event model of the training loop: engines, driver, reward, learner and pushes, in simulated seconds.

In: what each part costs (`Costs`), how many engines there are, how long answers turn out to be (`Batch`). Out: one
`Step` per training step. Must not know: where the costs come from, clocks, vLLM, Ray.

It follows the code: `rollout.sampler` (groups longest expected first, each to the worker with the fewest expected
tokens outstanding; expectations are running means by kind of prompt), `rollout.worker` (older batches begin first, at
most `max_num_seqs` side by side, nothing begins before the weights its share was asked with, new weights between two
engine steps: keep, recompute or drain), `orchestrator.training.batch_queue` and `orchestrator.training.loop` (batches
consumed whole and in order; with `max_staleness` 0 the loop waits for its pushes, otherwise for those of the step
before). The first `shared` engines lie on the learner's GPUs and sleep while it works: they are interrupted in
mid-answer, and what ran is recomputed when they wake, with the new weights (`orchestrator.cluster.colocation`). Then
the loop waits for every push.

A step of an engine samples one token for each of n running sequences and takes

    step_s[n] + context_s * (tokens they attend to) + end_s * (sequences ended), and where sequences begin
    first_s + begin_s * (sequences begun) + prefill_s * (their prompt tokens) more

Engines jump from one event (a sequence ends, begins, a share or weights arrive) to the next: a simulated second of
1,024 engines costs what their sequences cost, not their tokens. Left out: preemption for want of KV cache
(`Step.context` says how much would have been needed), prefix caching, refill, validation, checkpoints. The result
follows from the arguments alone.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from conf.schema import OnWeightSync
from orchestrator.plan.costs import Batch, Costs, EngineCosts, Step
from rollout.sampler import DECAY


@dataclass(slots=True, eq=False)
class _Share:
    batch: int
    min_version: int
    lengths: list[int]
    prompts: list[int]
    expected: float
    begun: int = 0
    left: int = 0
    end: float = math.inf  # when its last sequence ended
    oldest: int | None = None  # version of its oldest token


@dataclass(slots=True, eq=False)
class Engine:
    """One engine thread. `run` takes it as far as is asked, `post` tells it what will arrive when."""

    costs: EngineCosts
    on_weight_sync: OnWeightSync
    now: float = 0.0  # the end of its last step
    version: int = 0
    busy: float = 0.0  # seconds of sampling
    most_context: int = 0
    loaded: dict[int, float] = field(default_factory=dict)  # version -> when it was there
    _inbox: deque[tuple[float, _Share | int]] = field(default_factory=deque)  # arrival; a share, or a version
    _waiting: deque[_Share] = field(default_factory=deque)  # oldest first
    _running: list[tuple[int, int, _Share, int]] = field(default_factory=list)  # heap: last step, age, share, tokens
    _steps: int = 0
    _context: int = 0
    _age: int = 0
    _postponed: list[int] = field(default_factory=list)  # versions that wait for an empty engine (drain)
    _redo: int = 0  # tokens whose keys and values the next step computes anew (recompute)

    def post(self, arrival: float, what: _Share | int) -> None:
        """Arrivals come in the order of their time."""
        self._inbox.append((arrival, what))

    def run(self, until: float = math.inf, done: Callable[[], bool] = lambda: False) -> None:
        """Go on until `done` or to the first step's end at or after `until`; stop early where nothing is left to do."""
        while self.now < until and not done():
            self._serve()
            if self.now >= until:  # loading took that long: what arrived meanwhile is yet to be told
                return
            if self._postponed and not self._running:
                for version in self._postponed:
                    self._load(version)
                self._postponed.clear()
            begun, prompts = self._begin()
            if not self._running:
                if not self._inbox or self._inbox[0][0] > until:
                    return
                self.now = max(self.now, self._inbox[0][0])
                continue
            self._sample(begun, prompts, min(until, self._inbox[0][0] if self._inbox else math.inf))

    def _serve(self) -> None:
        while self._inbox and self._inbox[0][0] <= self.now:
            what = self._inbox.popleft()[1]
            if isinstance(what, _Share):
                self._waiting.append(what)
            elif self.on_weight_sync is OnWeightSync.drain and self._running:
                self._postponed.append(what)
            else:
                self._load(what)

    def _load(self, version: int) -> None:
        self.now += self.costs.load_s
        self.version, self.loaded[version] = version, self.now
        if self.on_weight_sync is OnWeightSync.recompute:
            self._redo = self._context

    def sleep(self, until: float, version: int) -> None:
        """From the last step's end to `until`, when it wakes with new weights and without a cache."""
        self.now = max(self.now, until)
        self.version, self.loaded[version], self._redo = version, self.now, self._context

    def _begin(self) -> tuple[int, int]:
        """Begin what may begin; returns how many sequences, and their prompt tokens."""
        begun = prompts = 0
        while self._waiting and not self._postponed and len(self._running) < self.costs.max_num_seqs:
            share = self._waiting[0]
            if share.min_version > self.version:
                break
            if share.oldest is None:
                share.oldest = self.version
            place = share.begun
            share.begun += 1
            if share.begun == len(share.lengths):
                self._waiting.popleft()
            length, prompt = share.lengths[place], share.prompts[place]
            heapq.heappush(self._running, (self._steps + length, self._age, share, prompt + length))
            self._age += 1
            self._context += prompt
            begun, prompts = begun + 1, prompts + prompt
        return begun, prompts

    def _sample(self, begun: int, prompts: int, until: float) -> None:
        """Steps with the same sequences, until one ends or `until` has come; one step where sequences begin."""
        costs, n = self.costs, len(self._running)
        first = costs.step_s[n] + costs.context_s * self._context
        steps = 1 if begun or self._redo else self._running[0][0] - self._steps
        if steps > 1 and until < math.inf:
            steps = min(steps, _fewest(first, costs.context_s * n, max(until - self.now, 0.0)))
        seconds = steps * first + costs.context_s * n * steps * (steps - 1) / 2
        seconds += costs.first_s * bool(begun) + costs.begin_s * begun + costs.prefill_s * (prompts + self._redo)
        self._redo = 0
        self._steps += steps
        self._context += n * steps
        self.most_context = max(self.most_context, self._context)
        ended = []
        while self._running and self._running[0][0] == self._steps:
            _, _, share, tokens = heapq.heappop(self._running)
            self._context -= tokens
            ended.append(share)
        seconds += costs.end_s * len(ended)
        self.now += seconds
        self.busy += seconds
        for share in ended:
            share.left -= 1
            if not share.left:
                share.end = self.now


def _fewest(first: float, growth: float, seconds: float) -> int:
    """The fewest steps (1 at least) that take `seconds`, when the first takes `first` and each `growth` more."""
    if growth <= 0:
        steps = seconds / first if first > 0 else math.inf
    else:
        half = first / growth - 0.5
        steps = math.sqrt(half * half + 2 * seconds / growth) - half
    return max(1, math.ceil(steps - 1e-9)) if steps < 1e15 else 10**15


class Spread:
    """`Sampler.sample`'s division of a batch over workers, and what it expects of lengths."""

    def __init__(self, workers: int, unknown: float):
        self.workers, self.unknown = workers, unknown
        self.means: dict[int, float] = {}
        self.asked: list[list[_Share]] = [[] for _ in range(workers)]

    def shares(self, number: int, version: int, batch: Batch, now: float) -> list[tuple[int, _Share]]:
        """(worker, share) of each worker that gets any."""
        size = batch.lengths.shape[1]
        expected = [self.means.get(int(kind), self.unknown) for kind in batch.kinds]
        self.asked = [[share for share in shares if share.end > now] for shares in self.asked]
        loads = [(sum(share.expected for share in shares), worker) for worker, shares in enumerate(self.asked)]
        heapq.heapify(loads)
        mine: list[list[int]] = [[] for _ in range(self.workers)]
        for index in sorted(range(len(expected)), key=lambda i: -expected[i]):
            load, worker = loads[0]
            heapq.heapreplace(loads, (load + expected[index] * size, worker))
            mine[worker].append(index)
        found = []
        for worker, indices in enumerate(mine):
            if indices:
                lengths = batch.lengths[indices].ravel().tolist()
                prompts = np.repeat(batch.prompts[indices], size).tolist()
                total = sum(expected[i] for i in indices) * size
                share = _Share(number, version, lengths, prompts, total, left=len(lengths))
                self.asked[worker].append(share)
                found.append((worker, share))
        return found

    def learn(self, batch: Batch) -> None:
        for kind in np.unique(batch.kinds):
            mean = float(batch.lengths[batch.kinds == kind].mean())
            self.means[int(kind)] = DECAY * self.means.get(int(kind), mean) + (1 - DECAY) * mean


@dataclass(frozen=True, slots=True)
class Pipeline:
    """costs and shape of a run. unknown: expected tokens before anything is known (the response cap). shared: engines
    on the learner's GPUs; 0: all have GPUs of their own (disaggregated)."""

    costs: Costs
    workers: int
    max_staleness: int
    unknown: float
    on_weight_sync: OnWeightSync = OnWeightSync.keep
    shared: int = 0

    def simulate(self, batches: Iterator[Batch], steps: int) -> list[Step]:
        """`steps` training steps, from version 0 already pushed."""
        costs = self.costs
        engines = [Engine(costs.engine, self.on_weight_sync) for _ in range(self.workers)]
        asleep = engines[: self.shared]  # while the learner works
        spread = Spread(self.workers, self.unknown)
        in_flight: deque[tuple[Batch, list[tuple[int, _Share]]]] = deque()
        found: list[Step] = []
        now, asked, sampled, learner_free, judge_free = 0.0, 0, 0.0, 0.0, 0.0
        for step in range(steps):
            begin = now
            while len(in_flight) <= min(self.max_staleness, steps - step - 1):
                batch = next(batches)
                now += costs.ask(batch)
                for engine in engines:
                    engine.run(until=now)
                shares = spread.shares(asked, step, batch, now)
                for worker, share in shares:
                    engines[worker].post(now + costs.call_s, share)
                in_flight.append((batch, shares))
                asked += 1
            batch, shares = in_flight.popleft()
            driver = costs.ask(batch)
            before, gather = now, costs.gather(batch)
            for worker, share in shares:
                engines[worker].run(done=lambda share=share: share.left == 0)  # type: ignore[misc]
                now = max(now, share.end + costs.call_s) + gather * len(share.lengths) / batch.lengths.size
            spread.learn(batch)
            rollout, before = now - before, now
            judge_free = max(judge_free, max(share.end for _, share in shares) + costs.call_s) + costs.reward(batch)
            now = max(now, judge_free + costs.call_s)
            reward, before = now - before, now
            now = max(now + costs.pack(batch), learner_free)
            if self.shared:
                for engine in engines:
                    engine.run(until=now)
                now = max(now, *(engine.now for engine in asleep)) + costs.to_learner_s
            learning = costs.learner(batch)
            now += learning
            learner, before = now - before, now
            if self.max_staleness and step:
                now = max(now, self._loaded(engines, step))
            learner_free = now + costs.to_push_s * bool(self.shared) + costs.publish_s
            for engine in engines[self.shared :]:
                engine.post(learner_free + costs.transfer_s, step + 1)
            if self.shared:
                now = learner_free + costs.transfer_s + costs.engine.load_s + costs.call_s
            if self.shared or not self.max_staleness:
                now = max(now, self._loaded(engines[self.shared :], step + 1))
            push = now - before
            now += costs.tail(batch) + costs.to_samplers_s * bool(self.shared)
            for engine in asleep:
                engine.sleep(now, step + 1)
            driver += gather + costs.pack(batch) + costs.tail(batch)
            for engine in engines:
                engine.run(until=now)
            total = sum(engine.busy for engine in engines)
            oldest = min(share.oldest for _, share in shares if share.oldest is not None)
            context = max(engine.most_context for engine in engines)
            found.append(
                Step(begin, now, rollout, reward, learner, push, driver, learning, step - oldest, total - sampled,
                     context, batch.tokens)
            )  # fmt: skip
            sampled = total
        return found

    def _loaded(self, engines: list[Engine], version: int) -> float:
        """When all engines had taken `version`, and said so."""
        for engine in engines:
            engine.run(done=lambda engine=engine: version in engine.loaded)  # type: ignore[misc]
        return max((engine.loaded[version] + self.costs.call_s for engine in engines), default=0.0)
