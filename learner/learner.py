"""All learner ranks as one learner.

In: judged groups, or packed batches. Out: `StepReport`s, checkpoints. Ranks are handles (see `rollout.base.handle`).
Must not know: Ray, DeepSpeed, where batches come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conf.schema import AlgorithmConf, LearnerConf, Old
from learner.data.batch import MicroBatch, TrainBatch
from learner.data.flops import Shape, tokens_only
from learner.data.pack import pack
from learner.metrics.efficiency import efficiency
from learner.metrics.report import StepReport, bad_steps
from learner.objective import optimizer_steps
from learner.restarts import Ask, Restarts
from learner.written import Written
from reward.group import Group
from rollout.base.gpu_sharing import GpuSharing
from rollout.base.handle import Future, Handle, WaitAll, in_order
from rollout.base.spans import FOR_LEARNER, Spans


class Learner:
    """Every collective call goes to all ranks, in the same order.

    wait_all: waits for all answers and raises the first failure as soon as it is known, since the other ranks may be
    waiting for the one that failed until their time-out.
    """

    def __init__(
        self,
        ranks: Sequence[Handle],
        conf: LearnerConf,
        shape: Shape | None = None,
        wait_all: WaitAll = in_order,
        spans: Spans | None = None,
    ):
        """shape: of the model, by which batches are balanced over ranks; None: by tokens. spans: where waiting
        for the ranks is recorded."""
        self.spans = spans or Spans()
        self.gpu_sharing = GpuSharing()  # called before the ranks use the GPUs; set where they share them
        self.ranks, self.conf, self.wait_all = ranks, conf, wait_all
        self.shape = shape
        self.cost: Callable[[int, int], int] = shape.cost if shape else tokens_only
        self.vocabulary: int | None = None  # rows of the output head, known once started
        self.restarts: Restarts | None = None  # None: a lost rank ends the run

    @property
    def shares(self) -> int:
        """Parts that a batch is divided into: ranks, but those that share micro-batches count once."""
        return len(self.ranks) // self.conf.sequence_parallel

    def start(self, port: int | None, reference: bool) -> int:
        """Form the process group and load the model. Returns its number of parameters."""
        address, free = self.ranks[0].call("address", port).wait()
        parameters = int(self.wait_all([rank.call("start", address, free, reference) for rank in self.ranks])[0])
        self.vocabulary = int(self.ranks[0].call("vocabulary").wait())
        return parameters

    def update(
        self, groups: list[Group], algorithm: AlgorithmConf, max_response_tokens: int | None = None
    ) -> StepReport | None:
        """Learn from judged groups: `algorithm.optimizer_steps` optimizer steps. See `apply` and `pack`."""
        with self.spans.of(FOR_LEARNER):
            return self.apply(self.pack(groups, algorithm, max_response_tokens), algorithm)

    def pack(
        self, groups: list[Group], algorithm: AlgorithmConf, max_response_tokens: int | None = None
    ) -> list[TrainBatch]:
        """Advantages, token weights and micro-batches: one batch for each optimizer step, balanced over the ranks."""
        return [
            pack(sequences, totals, self.conf.max_tokens, self.shares, self.cost)
            for sequences, totals in optimizer_steps(groups, algorithm, max_response_tokens)
        ]

    def stop_if_diverged(self, report: StepReport | None) -> None:
        """Raises FloatingPointError once `learner.max_bad_steps` optimizer steps in a row were skipped."""
        if report is not None and report.skipped and report.bad_in_a_row >= self.conf.max_bad_steps:
            raise FloatingPointError(bad_steps(report.bad_in_a_row, report.updates))

    def apply(self, batches: list[TrainBatch], algorithm: AlgorithmConf) -> StepReport | None:
        """One optimizer step for each batch that is not empty; None when all are: nothing to learn, a counted no-op.

        Raises ValueError before any rank is called when a batch does not fit the ranks or the model.
        """
        batches = [batch for batch in batches if not batch.empty]
        if not batches:
            return None
        for batch in batches:
            self._check(batch)
        self.gpu_sharing.learning(changes=True)

        def update() -> list[Future]:
            shares = [[self._share(batch, r) for batch in batches] for r in range(len(self.ranks))]
            return [rank.call("update", share, algorithm) for rank, share in zip(self.ranks, shares, strict=True)]

        reports: list[StepReport] = self._answers(update)
        if self.restarts is not None:
            self.restarts.updated(update)
            if self.gpu_sharing.shared:  # the ranks leave the GPUs next, with what is to be kept
                self.restarts.keep()
        found = [one for report in reports for one in report.nonfinite]
        named = {one.update for one in found if one.reason != "step"}
        kept = tuple(one for one in found if one.reason != "step" or one.update not in named)
        memories = [report.memory or {} for report in reports]
        again = algorithm.old is Old.learner
        return replace(
            reports[0],
            nonfinite=kept,
            memory={phase: max(memory[phase] for memory in memories) for phase in memories[0]},
            efficiency=efficiency(
                batches,
                self.shape,
                len(self.ranks),
                self.conf.max_tokens,
                max(report.seconds for report in reports),
                [int(algorithm.kl > 0) + int(k > 0 and again) for k in range(len(batches))],
                self.conf.gradient_checkpointing,
                reports[0].peak,
                shared=self.conf.sequence_parallel == 1,
            ),
        )

    def fine_tune(self, batch: TrainBatch) -> Any:
        """One supervised step, asked for; waiting on the answer gives (loss, tokens)."""
        self._check(batch)
        self.gpu_sharing.learning(changes=True)
        futures = [rank.call("fine_tune", self._share(batch, r)) for r, rank in enumerate(self.ranks)]
        return _FineTuned(futures, self.wait_all)

    def logprobs(self, batch: TrainBatch, temperature: float) -> list[tuple[MicroBatch, np.ndarray]]:
        """Log-probs f32[N] of every micro-batch under the current weights."""
        self._check(batch)
        self.gpu_sharing.learning(changes=False)
        answers: list[list[np.ndarray]] = self._answers(
            lambda: [rank.call("logprobs", self._share(batch, r), temperature) for r, rank in enumerate(self.ranks)]
        )
        scored, size = [], self.conf.sequence_parallel
        for share, mine in enumerate(batch.ranks):
            parts = zip(*answers[share * size : (share + 1) * size], strict=True)  # each rank's, zero where others'
            scored += [(mb, np.sum(values, axis=0)) for mb, values in zip(mine, parts, strict=True)]
        return scored

    def save(self, folder: str) -> Written:
        """A checkpoint's files, written when this returns, with their digests."""
        self.gpu_sharing.learning(changes=False)
        return _together(self._all("save", folder))

    def begin_save(self, folder: str) -> None:
        """The same beside training: every rank has copied its part when this returns. `saved` ends it."""
        self.gpu_sharing.learning(changes=False)
        self._all("save", folder, True)

    def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None:
        """The files of `begin_save`; None: some are still being written (never with `whole`, which waits for them).
        Raises what kept one from being written, and SaveLost when a rank was started anew meanwhile."""
        parts = self._answers(lambda: [rank.call("saved", whole, timeout_s=timeout_s) for rank in self.ranks])
        return None if None in parts else _together(parts)

    def load(self, folder: str) -> int:
        self.gpu_sharing.learning(changes=True)
        updates = int(self._all("load", folder)[0])
        if self.restarts is not None:
            self.restarts.loaded(lambda: [rank.call("load", folder) for rank in self.ranks])
        return updates

    def keep_state(self) -> None:
        """Between two updates, when it is time: what lost ranks would be replaced by. Waits for nothing. Where GPUs are
        shared `apply` has done it."""
        if self.restarts is not None and not self.gpu_sharing.shared:
            self.restarts.keep()

    @property
    def restart_count(self) -> int:
        return self.restarts.count if self.restarts is not None else 0

    def recovered(self, error: Exception) -> bool:
        """See `Restarts.recovered`."""
        return self.restarts is not None and self.restarts.recovered(error)

    def export(self, folder: str) -> None:
        self.gpu_sharing.learning(changes=False)
        self._all("export", folder)

    def _all(self, method: str, *args: Any) -> list[Any]:
        return self._answers(lambda: [rank.call(method, *args) for rank in self.ranks])

    def _answers(self, ask: Ask) -> list[Any]:
        """Of all ranks; asked again when some were lost and stand again where they stood."""
        while True:
            try:
                return self.wait_all(ask())
            except Exception as error:
                if not self.recovered(error):
                    raise

    def _share(self, batch: TrainBatch, rank: int) -> tuple[MicroBatch, ...]:
        return batch.ranks[rank // self.conf.sequence_parallel]

    def _check(self, batch: TrainBatch) -> None:
        """What would end in a hang or an index error on one rank while the others wait for it."""
        counts = [len(share) for share in batch.ranks]
        if len(counts) != self.shares or len(set(counts)) > 1:
            raise ValueError(
                f"a batch must have the same number of micro-batches on each of {self.shares} ranks, got {counts}"
            )
        for r, share in enumerate(batch.ranks):
            for m, mb in enumerate(share):
                where, size = f"micro-batch {m} of rank {r}", len(mb.token_ids)
                if size == 0 or sum(mb.lengths) != size or any(len(a) != size for a in mb.arrays()):
                    raise ValueError(f"{where}: its arrays have not the length of its {sum(mb.lengths)} tokens")
                if size > max(self.conf.max_tokens, 2):
                    raise ValueError(f"{where} has {size} tokens, more than learner.max_tokens={self.conf.max_tokens}")
                least, most = int(mb.token_ids.min()), int(mb.token_ids.max())
                if least < 0 or (self.vocabulary is not None and most >= self.vocabulary):
                    raise ValueError(
                        f"{where} holds token id {least if least < 0 else most}, but the model's output head has "
                        f"{self.vocabulary} rows: do tokenizer and model belong together?"
                    )


def _together(parts: list[Written]) -> Written:
    return {name: digest for part in parts for name, digest in part.items()}


class _FineTuned:
    def __init__(self, futures: list[Future], wait_all: WaitAll):
        self.futures, self.wait_all = futures, wait_all

    def wait(self) -> tuple[float, int]:
        parts = self.wait_all(self.futures)
        return sum(loss for loss, _ in parts), sum(tokens for _, tokens in parts)
