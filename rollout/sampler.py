"""Spreads prompts over rollout workers and puts their trajectories back in order.

In: prompts. Out: a `PendingBatch` of trajectories. Workers are `Handle`s: objects whose `call` returns a future with
`wait` and `done`. Must not know: Ray, rewards, losses.

A batch is spread when it is requested: its groups, those first whose answers are expected to be longest, each to the
worker with the fewest outstanding tokens. Siblings stay together and share their prompt's cached prefix. Workers begin
the next batch's sequences as the last ones of this batch end, so that a straggler delays nobody while several batches
are in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollout.base.gpu_sharing import GpuSharing
from rollout.base.handle import Future, Handle
from rollout.prompt import Prompt
from rollout.request import RolloutRequest, SamplingParams
from rollout.trajectory import Trajectory

DECAY = 0.9  # of the running mean of lengths, per batch
URGENT = 10**12  # urgent batches have numbers below all others, in the order in which they were requested


@dataclass(frozen=True, slots=True)
class BatchStats:
    tokens: int  # response tokens of the batch
    seconds: float  # from its first sequence's begin to its last one's end, of the slowest worker
    workers: tuple[tuple[int, int, float], ...] = ()  # (worker, tokens, seconds) of each that sampled some of it


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker samples of a batch."""

    places: list[int]  # of its responses in the batch
    request: RolloutRequest
    answer: Future
    expected: float  # tokens
    worker: int = 0


class Lengths:
    """How long answers are expected to be: the running mean of those of the same source and level."""

    def __init__(self, unknown: float):
        self.unknown = unknown  # tokens, where nothing is known yet
        self._means: dict[tuple[str, str | None], float] = {}

    def expected(self, prompt: Prompt) -> float:
        return self._means.get((prompt.source, prompt.level), self.unknown)

    def learn(self, trajectories: list[Trajectory]) -> None:
        seen: dict[tuple[str, str | None], list[int]] = {}
        for t in trajectories:
            seen.setdefault((t.prompt.source, t.prompt.level), []).append(len(t.token_ids))
        for kind, lengths in seen.items():
            mean = sum(lengths) / len(lengths)
            self._means[kind] = DECAY * self._means.get(kind, mean) + (1 - DECAY) * mean


@dataclass(slots=True)
class PendingBatch:
    """Requested trajectories; `wait` returns them ordered by prompt, then sibling."""

    sampler: Sampler
    number: int
    prompts: list[Prompt]
    group_size: int
    parts: list[Part]
    stats: BatchStats | None = None
    sampled: list[Trajectory] | None = None  # once waited for

    def wait(self) -> list[Trajectory]:
        """All that was requested, except what was given up (`abort`)."""
        if self.sampled is None:
            self.sampled = self._wait()
        return self.sampled

    def _wait(self) -> list[Trajectory]:
        if not self.done():
            self.sampler.gpu_sharing.sampling()  # who else used the GPUs since this was requested is done with them
        workers: list[tuple[int, int, float]] = []
        trajectories: list[Trajectory | None] = [None] * (len(self.prompts) * self.group_size)
        for part in self.parts:
            sampled = part.answer.wait()
            workers.append((part.worker, sampled.tokens, sampled.seconds))
            prompts = [self.prompts[place // self.group_size] for place in part.places]
            siblings = [place % self.group_size for place in part.places]
            for place, trajectory in zip(part.places, sampled.trajectories(prompts, siblings), strict=True):
                trajectories[place] = trajectory
        slowest = max((seconds for _, _, seconds in workers), default=0.0)
        self.stats = BatchStats(sum(tokens for _, tokens, _ in workers), slowest, tuple(workers))
        whole = [t for t in trajectories if t is not None]
        if all(part.request.sampling is self.sampler.sampling for part in self.parts):
            self.sampler.lengths.learn(whole)  # (a forced mode has other lengths)
        return whole

    def done(self) -> bool:
        """Whether all of it is sampled."""
        return all(part.answer.done() for part in self.parts)

    def abort(self) -> int:
        """Give up what is unfinished; returns how many sequences that was."""
        return self.sampler.abort(self.number)


class Sampler:
    """All rollout workers. A batch is sampled by weights of `version`, or newer ones."""

    def __init__(self, workers: Sequence[Handle], sampling: SamplingParams):
        self.workers, self.sampling = workers, sampling
        self.gpu_sharing = GpuSharing()  # called before the workers are needed; set where the learner shares the GPUs
        self.lengths = Lengths(float(sampling.max_response_tokens))
        self.version = 0  # of the weights sent last: `WeightSync` sets it, and
        self.arrived: Callable[[], None] = lambda: None  # what waits until they are there
        self._batches = 0
        self._requested: list[list[Part]] = [[] for _ in workers]

    def sample(
        self,
        prompts: list[Prompt],
        group_size: int,
        step: int,
        sampling: SamplingParams | None = None,
        urgent: bool = False,
    ) -> PendingBatch:
        """Request `group_size` siblings of each prompt. urgent: begin before everything requested earlier; the weights
        are waited for first, and if they cannot come, their error is raised."""
        if urgent:
            self.arrived()
        self.gpu_sharing.sampling()
        self._batches += 1
        number = self._batches - URGENT if urgent else self._batches
        batch = PendingBatch(self, number, prompts, group_size, [])
        expected = [self.lengths.expected(prompt) for prompt in prompts]
        loads = [sum(part.expected for part in self._unfinished(worker)) for worker in range(len(self.workers))]
        mine: list[list[int]] = [[] for _ in self.workers]
        for index in sorted(range(len(prompts)), key=lambda i: -expected[i]):
            worker = min(range(len(loads)), key=loads.__getitem__)
            loads[worker] += expected[index] * group_size
            mine[worker].append(index)
        for worker, indices in enumerate(mine):
            if not indices:
                continue
            request = RolloutRequest(
                number,
                step,
                self.version,
                tuple(prompts[i] for i in indices),
                tuple((p, sibling) for p in range(len(indices)) for sibling in range(group_size)),
                sampling or self.sampling,
            )
            places = [i * group_size + sibling for i in indices for sibling in range(group_size)]
            answer = self.workers[worker].call("sample", request)
            part = Part(places, request, answer, sum(expected[i] for i in indices) * group_size, worker)
            self._requested[worker].append(part)
            batch.parts.append(part)
        return batch

    def _unfinished(self, worker: int) -> list[Part]:
        self._requested[worker] = [part for part in self._requested[worker] if not part.answer.done()]
        return self._requested[worker]

    def abort_all(self) -> None:
        """Give up everything that is unfinished."""
        asked = {part.request.batch for worker in range(len(self.workers)) for part in self._unfinished(worker)}
        for number in asked:
            self.abort(number)

    def abort(self, number: int) -> int:
        """Give up what is unfinished of a batch."""
        answers = [worker.call("abort", number) for worker in self.workers]
        return sum(answer.wait() for answer in answers)
