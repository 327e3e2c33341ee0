"""All learner ranks as one learner.

In: `TrainBatch`es. Out: `StepReport`s, published weights, checkpoints. Ranks are handles (see `rollout.sampler`).
Must not know: Ray, DeepSpeed, where batches come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conf.schema import AlgorithmConf, LearnerConf
from learner.batch import MicroBatch, TrainBatch
from learner.report import StepReport
from rollout.sampler import Future, Handle


class Learner:
    """Every collective call goes to all ranks, in the same order."""

    def __init__(self, ranks: list[Handle], conf: LearnerConf):
        self.ranks, self.conf = ranks, conf

    @property
    def num_ranks(self) -> int:
        return len(self.ranks)

    def start(self, port: int | None, reference: bool) -> int:
        """Form the process group and load the model. Returns its number of parameters."""
        address, free = self.ranks[0].call("address", port).wait()
        return int(self._all("start", address, free, reference)[0])

    def update(self, batches: list[TrainBatch], algorithm: AlgorithmConf) -> StepReport | None:
        """One optimizer step for each batch that is not empty; None when all are: nothing to learn, a counted no-op."""
        batches = [batch for batch in batches if not batch.empty]
        if not batches:
            return None
        futures = [
            rank.call("update", [batch.ranks[r] for batch in batches], algorithm) for r, rank in enumerate(self.ranks)
        ]
        reports: list[StepReport] = [future.wait() for future in futures]
        return reports[0]

    def fine_tune(self, batch: TrainBatch) -> Any:
        """One supervised step, asked for; waiting on the answer gives (loss, tokens)."""
        return _FineTuned([rank.call("fine_tune", batch.ranks[r]) for r, rank in enumerate(self.ranks)])

    def logprobs(self, batch: TrainBatch, temperature: float) -> list[tuple[MicroBatch, np.ndarray]]:
        """Log-probs f32[N] of every micro-batch under the current weights."""
        futures = [rank.call("logprobs", batch.ranks[r], temperature) for r, rank in enumerate(self.ranks)]
        scored = []
        for mine, future in zip(batch.ranks, futures, strict=True):
            scored += list(zip(mine, future.wait(), strict=True))
        return scored

    def publish(self, version: int) -> Future:
        """The current weights, as a future that can be passed on to the sampler without coming here."""
        first, *_ = [rank.call("publish", version) for rank in self.ranks]
        return first

    def save(self, folder: str) -> None:
        self._all("save", folder)

    def load(self, folder: str) -> int:
        return int(self._all("load", folder)[0])

    def export(self, folder: str) -> None:
        self._all("export", folder)

    def _all(self, method: str, *args: Any) -> list[Any]:
        return [future.wait() for future in [rank.call(method, *args) for rank in self.ranks]]


class _FineTuned:
    def __init__(self, futures: list[Future]):
        self.futures = futures

    def wait(self) -> tuple[float, int]:
        parts = [future.wait() for future in self.futures]
        return sum(loss for loss, _ in parts), sum(tokens for _, tokens in parts)
