"""Spreads prompts over rollout workers and puts their trajectories back in order.

In: prompts. Out: a `PendingBatch` of trajectories. Workers are `Handle`s: objects whose `call` returns a future with
`wait`. Must not know: Ray, rewards, losses.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.prompt import Prompt
from rollout.trajectory import Trajectory
from rollout.worker import Sampling


class Future(Protocol):
    def wait(self) -> Any: ...


class Handle(Protocol):
    def call(self, method: str, *args: Any) -> Future: ...


@dataclass(frozen=True, slots=True)
class BatchStats:
    tokens: int  # response tokens of the batch
    seconds: float  # of the slowest worker
    waited: float  # seconds the caller waited for it


@dataclass(slots=True)
class PendingBatch:
    """Trajectories asked for; `wait` returns them ordered by prompt, then sibling."""

    parts: list[tuple[list[int], Future]]  # places in the batch, worker's answer
    size: int
    stats: BatchStats | None = None

    def wait(self) -> list[Trajectory]:
        begin, tokens, slowest = time.monotonic(), 0, 0.0
        trajectories: list[Trajectory | None] = [None] * self.size
        for places, future in self.parts:
            sampled = future.wait()
            tokens, slowest = tokens + sampled.tokens, max(slowest, sampled.seconds)
            for place, trajectory in zip(places, sampled.trajectories, strict=True):
                trajectories[place] = trajectory
        self.stats = BatchStats(tokens, slowest, time.monotonic() - begin)
        return [t for t in trajectories if t is not None]


class Sampler:
    """All rollout workers. Calls to one worker are served in order: a batch asked for after `load` has those
    weights."""

    def __init__(self, workers: list[Handle], sampling: Sampling):
        self.workers, self.sampling = workers, sampling

    def sample(
        self, prompts: list[Prompt], group_size: int, step: int, sampling: Sampling | None = None
    ) -> PendingBatch:
        """Ask for `group_size` siblings of each prompt; siblings share a worker, and so its cached prefix."""
        parts = []
        for index, worker in enumerate(self.workers):
            mine = range(index, len(prompts), len(self.workers))
            if not mine:
                continue
            pairs = [(p, sibling) for p in mine for sibling in range(group_size)]
            future = worker.call(
                "sample", [prompts[p] for p, _ in pairs], [s for _, s in pairs], step, sampling or self.sampling
            )
            parts.append(([p * group_size + s for p, s in pairs], future))
        return PendingBatch(parts, len(prompts) * group_size)

    def load(self, weights: Future) -> list[Future]:
        """Push published weights to every worker. Returns at once; waiting on the futures gives each one's seconds."""
        return [worker.call("load", weights) for worker in self.workers]
