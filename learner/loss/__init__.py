"""Objectives as per-token weights over the whole optimizer step: L = sum_t w_t * surrogate_t + beta sum_t v_t * kl_t.

One small file per algorithm, with two functions from a response's length to its weights, `token_weights` (w) and
`kl_weights` (v). They are computed from totals known before the first forward pass, so gradients do not depend on the
number of ranks, the packing or the micro-batch size. To add an algorithm, add a file here, its name in
`conf.choices.Loss` and a line in the table of `learner.objective`.

| file | weights |
|---|---|
| degrpo | DeGRPO, paper and reference-code form |
| grpo | GRPO (sequence mean, or token mean) |
| dr_grpo | Dr. GRPO (one constant) |
| sft | supervised fine-tuning (token mean) |
| surrogate | the clipped surrogate and the KL term that the weights multiply |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one optimizer step, over all ranks and all requested trajectories, uninformative groups included."""

    trajectories: int  # N
    response_tokens: int  # sum_i T_i: tokens after the control token
    tokens: int  # sum_i (T_i + 1)
