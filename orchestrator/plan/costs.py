"""What the simulated pipeline takes and gives: a batch's lengths, the seconds that each part costs, steps.

In: nothing. Out: dataclasses. Must not know: where costs come from, how they are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Prompts of one batch and what is sampled for them. P prompts, G siblings each."""

    kinds: np.ndarray  # i[P]: source and level, by which lengths are expected
    prompts: np.ndarray  # i[P], tokens
    lengths: np.ndarray  # i[P, G], response tokens, at least 1
    learnt: np.ndarray  # bool[P]: rewards differ, so the learner sees the group

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return int(self.lengths.sum())

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """(prompt tokens, response tokens) of every sequence that the learner sees, i[n] each."""
        lengths = self.lengths[self.learnt]
        return np.repeat(self.prompts[self.learnt], lengths.shape[1]), lengths.ravel()


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """Seconds of one engine; step_s[n] for n = 0..max_num_seqs running sequences."""

    step_s: tuple[float, ...]
    context_s: float = 0.0
    first_s: float = 0.0
    begin_s: float = 0.0
    prefill_s: float = 0.0
    end_s: float = 0.0
    load_s: float = 0.0  # that new weights keep it from sampling

    @property
    def max_num_seqs(self) -> int:
        return len(self.step_s) - 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, each a function of the batch where it depends on one."""

    engine: EngineCosts
    learner: Callable[[Batch], float]  # one update: all its optimizer steps, collective calls included
    ask: Callable[[Batch], float] = lambda batch: 0.0  # driver: prompts, spreading
    gather: Callable[[Batch], float] = lambda batch: 0.0  # driver: answers to trajectories
    reward: Callable[[Batch], float] = lambda batch: 0.0
    pack: Callable[[Batch], float] = lambda batch: 0.0  # driver: groups, advantages, packing, handing out
    tail: Callable[[Batch], float] = lambda batch: 0.0  # driver: summary, metrics, samples
    call_s: float = 0.0  # from the driver's call to its arrival at a worker, and back
    publish_s: float = 0.0  # that publishing keeps the learner busy
    transfer_s: float = 0.0  # from there until a worker can begin to load
    to_learner_s: float = 0.0  # shared GPUs: samplers leave them, the learner comes back whole
    to_push_s: float = 0.0  # all but the learner's weights leaves, the samplers' weights come back
    to_samplers_s: float = 0.0  # the learner's weights leave, the samplers' caches come back


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the loop. Parts are seconds that the loop waited, as in metrics.jsonl."""

    begin: float
    end: float  # the next step's begin
    rollout: float
    reward: float
    learner: float
    push: float
    driver: float  # asking, gathering, packing and tail: inside the parts above or between steps
    learning: float  # that the learner's ranks worked
    staleness: int  # updates done since the oldest token's weights
    sampled: float  # engine-seconds of sampling since the step before
    context: int  # most tokens that one engine's running sequences held so far
    tokens: int  # response tokens of the batch

    @property
    def seconds(self) -> float:
        return self.end - self.begin
