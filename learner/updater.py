"""The optimizer steps of one learner rank: losses, gradients, log-probs.

In: this rank's micro-batches, its engine. Out: weights that the engine has stepped, `StepReport`s, log-probs. Must not
know: how the rank starts, checkpoints, weight sync, Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import AlgorithmConf, LearnerConf, Old
from learner.data.batch import MicroBatch
from learner.data.flops import device_peak
from learner.data.shared_prefix import origins
from learner.engine import Engine
from learner.loss.surrogate import policy_losses
from learner.metrics.loss_metrics import LossMetrics
from learner.metrics.memory import PeakMemory
from learner.metrics.nonfinite import NonfiniteWatch
from learner.metrics.report import StepReport, bad_steps
from learner.model.attention import Layout
from learner.model.lora import Unadapted
from learner.model.policy import Policy
from learner.model.reference import on_device
from learner.model.sequence_parallel import shard
from learner.ranks import agree, digest
from learner.schedule import learning_rate
from rollout.mode import MODES, Mode


class Updater:
    """Every method is collective: all ranks call it, in the same order."""

    def __init__(
        self,
        engine: Engine,
        conf: LearnerConf,
        rank: int,
        temperature: float,
        total_updates: int,
        modes: Sequence[Mode] = MODES,
    ):
        """temperature: of the rollouts; total_updates: optimizer steps of the whole schedule."""
        self.engine, self.conf, self.rank = engine, conf, rank
        self.temperature, self.total_updates, self.modes = temperature, total_updates, modes
        self.part, self.parts = rank % conf.sequence_parallel, conf.sequence_parallel  # of each micro-batch's row
        self.updates = 0  # optimizer steps applied or skipped
        self.bad_in_a_row = 0

    def update(
        self,
        steps: list[tuple[MicroBatch, ...]],
        algorithm: AlgorithmConf,
        reference: Policy | Unadapted | None,
    ) -> StepReport:
        """One optimizer step for each entry of `steps`, this rank's micro-batches. Old and reference log-probs are
        computed first. reference: of the KL term; None: there is none."""
        begin, memory = time.monotonic(), PeakMemory(self.engine.device)
        counts = [len(step) for step in steps]
        agree(self.conf, "the update's micro-batches", len(steps), sum(counts), digest(repr(counts)))
        metrics = LossMetrics(algorithm, steps if self.part == 0 else [], self.modes)
        steps = [self._sharded(step) for step in steps]
        watch = NonfiniteWatch(self.rank, self.conf.ranks)
        reference = reference if algorithm.kl else None
        with memory.of("score"), torch.no_grad(), on_device(reference, self.engine.device):
            ref_logprobs = [[self.score(reference, mb)[0] if reference else None for mb in step] for step in steps]
        needed = algorithm.old is Old.learner  # after the first optimizer step, whose own forward pass gives them
        with memory.of("score"), torch.no_grad():
            earlier = [
                [self.score(self.engine, mb)[0] if k and needed else None for mb in step]
                for k, step in enumerate(steps)
            ]

        def loss(mb: MicroBatch, place: tuple[int, int]) -> Tensor:
            k, m = place
            logprobs, entropies = self.score(self.engine, mb, entropy=True)
            assert entropies is not None
            old_logprobs = earlier[k][m] if k else logprobs.detach()
            behavior_logprobs, weights, kl_weights, advantages = self._tensors(
                mb.behavior_logprobs, mb.weights, mb.kl_weights, mb.advantages
            )
            given = old_logprobs, behavior_logprobs, ref_logprobs[k][m]
            parts = policy_losses(logprobs, *given, advantages, weights, kl_weights, algorithm)
            metrics.add(mb, logprobs.detach(), *given, entropies, parts)
            losses = parts.surrogate + algorithm.kl * parts.kl
            watch.take(mb, self._start(mb), losses)
            return losses.sum()

        self.engine.policy.watch = watch.gradient
        norms, skipped = zip(
            *(self._optimizer_step(step, k, loss, memory, watch) for k, step in enumerate(steps)), strict=True
        )
        self.engine.policy.watch = None
        return metrics.report(
            watch,
            updates=self.updates,
            skipped=sum(skipped),
            bad_in_a_row=self.bad_in_a_row,
            nonfinite=tuple(watch.kept),
            memory=memory.take(),
            peak=device_peak(self.engine.device),
            seconds=time.monotonic() - begin,
            lr=self._lr(),
            grad_norm=float(np.mean(norms)),
        )

    def fine_tune(self, batch: tuple[MicroBatch, ...]) -> tuple[float, int]:
        """One supervised optimizer step. Returns this rank's share of the loss (nats per token) and its tokens."""
        total = 0.0

        def loss(mb: MicroBatch, _: tuple[int, int]) -> Tensor:
            nonlocal total
            (weights,) = self._tensors(mb.weights)
            value = -(weights * self.score(self.engine, mb, temperature=1.0)[0]).sum()
            total += float(value.detach())
            return value

        self._optimizer_step(self._sharded(batch), 0, loss, PeakMemory(self.engine.device))
        if self.bad_in_a_row >= self.conf.max_bad_steps:
            raise FloatingPointError(bad_steps(self.bad_in_a_row, self.updates))
        return total, sum(sum(mb.lengths) for mb in batch) if self.part == 0 else 0

    def logprobs(self, batch: tuple[MicroBatch, ...], temperature: float) -> list[np.ndarray]:
        """Log-probs f32[N] of each micro-batch's response tokens under the current weights (zero elsewhere).

        Under sequence parallelism each rank gives those of its part, zero on the others'.
        """
        with torch.no_grad():
            scored = [self.score(self.engine, mb, temperature)[0].float().cpu().numpy() for mb in self._sharded(batch)]
        return [values[: len(mb.token_ids)] for values, mb in zip(scored, batch, strict=True)]

    def score(
        self, policy: Any, mb: MicroBatch, temperature: float | None = None, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies f32[N], nats, of this rank's part of a micro-batch, zero on all but response tokens.

        policy: the engine, a reference or a `Policy`; temperature: by default the rollouts'; entropy: False for None
        instead of entropies.
        """
        token_ids, position_ids, response = self._tensors(mb.token_ids, mb.position_ids, mb.response)
        exchange = self.engine.exchange if self.parts > 1 else None
        shared = origins(mb) if self.parts == 1 else None
        layout = Layout(list(mb.lengths), self.engine.device, self.part, self.parts, exchange, shared)
        temperature = temperature or self.temperature
        return policy(token_ids, position_ids, response, layout, temperature, self.conf.logprob_chunk, entropy)

    def _optimizer_step(
        self,
        batch: tuple[MicroBatch, ...],
        index: int,
        loss: Callable[[MicroBatch, tuple[int, int]], Tensor],
        memory: PeakMemory,
        watch: NonfiniteWatch | None = None,
    ) -> tuple[float, bool]:
        """Accumulate over the micro-batches and step. Returns (gradient norm, skipped)."""
        with memory.of("learn"):
            for m, mb in enumerate(batch):
                self.engine.accumulate(loss(mb, (index, m)))
        with memory.of("step"):
            norm, applied = self.engine.step(self._lr())
        self.updates += 1
        self.bad_in_a_row = 0 if applied else self.bad_in_a_row + 1
        if watch is not None:
            watch.step(applied, batch, self.updates - 1)
        return norm, not applied

    def _start(self, mb: MicroBatch) -> int:
        """The first token of a micro-batch's row that this rank holds hidden states of."""
        return self.part * (len(mb.token_ids) // self.parts)

    def _lr(self) -> float:
        return learning_rate(self.conf, self.updates, self.total_updates)

    def _sharded(self, batch: tuple[MicroBatch, ...]) -> tuple[MicroBatch, ...]:
        """This rank's part of each micro-batch."""
        return tuple(shard(mb, self.part, self.parts) for mb in batch)

    def _tensors(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.tensor(a, device=self.engine.device) for a in arrays]
