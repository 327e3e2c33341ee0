"""Sums over response tokens on one rank, reduced over ranks once per update.

In: micro-batches with their log-probs and losses. Out: `StepReport`. The sums stay on the device until the report:
reading a number would synchronize the device at every micro-batch. Must not know: models, engines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import AlgorithmConf
from learner.data.batch import MicroBatch
from learner.loss.surrogate import TokenLosses, importance_weights
from learner.metrics.nonfinite import NonfiniteWatch
from learner.metrics.report import StepReport
from rollout.mode import MODES, Mode

SUMMED = ("count", "controls", "loss_control", "loss_response", "loss_kl", "entropy",
          "entropy_control", "kl", "outside", "high", "low", "dual", "compared", "mismatch_kl", "mismatch_abs",
          "importance", "capped")  # fmt: skip
HOST = ("tokens", "grad_control", "grad_response")  # known without the device
LARGEST = ("mismatch", "importance")
NEAR = (0.9, 1.1)  # ratios outside this range are counted


class LossMetrics:
    def __init__(self, conf: AlgorithmConf, steps: list[tuple[MicroBatch, ...]], modes: Sequence[Mode] = MODES):
        """steps: this rank's micro-batches, whose tokens it counts."""
        self.conf, self.modes = conf, modes
        self.summed = (*SUMMED, *(mode.name for mode in modes))
        self.tokens = sum(sum(mb.lengths) for step in steps for mb in step if mb.kl_weights.any())  # not idle rows
        self.sums: Tensor | None = None  # f64[len(self.summed)]
        self.largest: Tensor | None = None  # f64[len(LARGEST)]

    def add(
        self,
        mb: MicroBatch,
        logprobs: Tensor,
        old_logprobs: Tensor | None,
        behavior_logprobs: Tensor,
        ref_logprobs: Tensor | None,
        entropies: Tensor,
        parts: TokenLosses,
    ) -> None:
        """Log-probs and entropies [N], without gradient; old_logprobs: the learner's before the update, None if not
        computed."""
        device = logprobs.device
        counted = torch.tensor(mb.response & (mb.kl_weights > 0), device=device)  # not a rank's idle row
        control = torch.tensor(mb.control, device=device)
        modes = torch.tensor(mb.modes, device=device)
        surrogate = parts.surrogate.detach()

        def total(values: Tensor, where: Tensor = counted) -> Tensor:
            return torch.where(where, values.double(), 0.0).sum()

        nothing = torch.zeros((), dtype=torch.float64, device=device)
        sums = {
            "count": counted.sum(),
            "controls": (counted & control).sum(),
            "loss_control": total(surrogate, control),
            "loss_response": total(surrogate, ~control),
            "loss_kl": self.conf.kl * parts.kl.detach().double().sum(),
            **{mode.name: total(surrogate, modes == np.float32(mode.effort).item()) for mode in self.modes},
            "entropy": total(entropies),
            "entropy_control": total(entropies, counted & control),
            "kl": nothing + math.nan if ref_logprobs is None else total(k3(ref_logprobs, logprobs)),
            "outside": total((parts.ratio < NEAR[0]) | (parts.ratio > NEAR[1])),
            "high": total(parts.high),
            "low": total(parts.low),
            "dual": total(parts.dual),
        }
        largest = dict.fromkeys(LARGEST, nothing)
        if old_logprobs is not None:
            gap = (old_logprobs - behavior_logprobs).double().abs()
            weights = importance_weights(old_logprobs, behavior_logprobs, self.conf)
            sums |= {
                "compared": counted.sum(),
                "mismatch_kl": total(k3(old_logprobs, behavior_logprobs)),
                "mismatch_abs": total(gap),
                "importance": total(weights),
                "capped": total(weights > self.conf.importance_cap),
            }
            for name, values in (("mismatch", gap), ("importance", weights)):
                largest[name] = torch.where(counted, values.double(), 0.0).amax()
        sums_here = torch.stack([sums.get(name, nothing).double() for name in self.summed])
        largest_here = torch.stack([largest[name] for name in LARGEST])
        self.sums = sums_here if self.sums is None else self.sums + sums_here
        self.largest = largest_here if self.largest is None else torch.maximum(self.largest, largest_here)

    def report(self, watch: NonfiniteWatch, **known: Any) -> StepReport:
        """A collective call, after at least one `add` on every rank."""
        assert self.sums is not None and self.largest is not None
        sums = torch.cat([self.sums, self.sums.new_tensor([self.tokens, *watch.squares()])])
        largest = self.largest.clone()
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        value = dict(zip(self.summed + HOST, sums.tolist(), strict=True))
        top = dict(zip(LARGEST, largest.tolist(), strict=True))
        count, compared = value["count"] or math.nan, value["compared"] or math.nan
        return StepReport(
            **known,
            tokens=int(value["tokens"]),
            loss=value["loss_control"] + value["loss_response"] + value["loss_kl"],
            loss_control=value["loss_control"],
            loss_response=value["loss_response"],
            loss_kl=value["loss_kl"],
            loss_by_mode={mode.name: value[mode.name] for mode in self.modes},
            grad_norm_control=math.sqrt(value["grad_control"]),
            grad_norm_response=math.sqrt(value["grad_response"]),
            entropy=value["entropy"] / count,
            entropy_control=value["entropy_control"] / (value["controls"] or math.nan),
            kl=value["kl"] / count,
            ratio_outside=value["outside"] / count,
            clip_fraction=(value["high"] + value["low"] + value["dual"]) / count,
            clip_high=value["high"] / count,
            clip_low=value["low"] / count,
            clip_dual=value["dual"] / count,
            mismatch_kl=value["mismatch_kl"] / compared,
            mismatch_mean_abs=value["mismatch_abs"] / compared,
            mismatch_max_abs=top["mismatch"],
            importance_mean=value["importance"] / compared,
            importance_max=top["importance"],
            importance_capped=value["capped"] / compared,
        )


def k3(of: Tensor, to: Tensor) -> Tensor:
    """exp(d) - d - 1, d = of - to in +-10, f64: an estimate of KL(to || of) on tokens sampled from `to`."""
    d = (of - to).double().clamp(-10, 10)
    return d.exp() - d - 1
