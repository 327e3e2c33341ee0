"""The report of one update, `StepReport`, and its non-finite sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from learner.metrics.efficiency import Efficiency


@dataclass(frozen=True, slots=True, eq=False)
class NonfiniteSequence:
    """A sequence with its inputs, for `bad_steps.jsonl`."""

    update: int  # optimizer step, counted from the start of training
    rank: int
    reason: str  # "loss", "gradient" (of the last hidden states), or "step": only the step's gradient as a whole
    token_ids: np.ndarray  # i32[P + T]
    mode: float  # effort of its mode: 0 short, 1 think; -1 none
    advantage: float
    smallest_logprob: float  # of its response tokens under the sampler, nats


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means and fractions are over the response tokens that were learnt from; loss parts are sums of weighted terms.

    Mismatch and importance compare the learner's log-probs before the batch's first optimizer step with the sampler's.
    With algorithm.old=sampler only the first optimizer step's tokens have the former, so these figures cover only them.
    """

    updates: int  # optimizer steps done since the start of training
    skipped: int  # optimizer steps of this batch skipped for a non-finite loss or gradient
    tokens: int  # prompts included
    seconds: float
    lr: float
    bad_in_a_row: int = 0  # consecutive skipped optimizer steps up to the end of this update
    nonfinite: tuple[NonfiniteSequence, ...] = ()  # sequences of skipped optimizer steps, of all ranks
    memory: Mapping[str, float] | None = None  # peak GiB of any rank, by phase: score, learn, step
    peak: float | None = None  # peak FLOP/s of a rank's device, if known
    efficiency: Efficiency | None = None  # tokens and FLOPs per second, utilization, packing
    loss: float = float("nan")
    loss_control: float = float("nan")  # of the t = 0 tokens
    loss_response: float = float("nan")
    loss_kl: float = float("nan")  # coefficient included
    loss_by_mode: Mapping[str, float] = field(default_factory=dict)  # the surrogate's, by the mode's name
    grad_norm: float = float("nan")  # before clipping, mean over the optimizer steps
    grad_norm_control: float = float("nan")  # of the loss's gradient with respect to the last hidden states, at the
    grad_norm_response: float = float("nan")  # positions that predict control tokens, and at those of other tokens
    entropy: float = float("nan")  # nats
    entropy_control: float = float("nan")  # of the t = 0 tokens, nats
    kl: float = float("nan")  # k3 to the reference, nats, whatever estimator the loss uses; NaN without a reference
    ratio_outside: float = float("nan")  # fraction of tokens whose ratio (pi / old) is outside [0.9, 1.1]
    clip_fraction: float = float("nan")  # fraction of tokens whose gradient was clipped away: the next three together
    clip_high: float = float("nan")  # fraction: by the upper bound, advantage positive
    clip_low: float = float("nan")  # fraction: by the lower bound, advantage negative
    clip_dual: float = float("nan")  # fraction: by the dual clip, advantage negative
    mismatch_kl: float = float("nan")  # k3 of sampler against learner, nats
    mismatch_mean_abs: float = float("nan")  # |log-prob(sampler) - log-prob(learner)|, nats
    mismatch_max_abs: float = float("nan")
    importance_mean: float = float("nan")  # learner's / sampler's probability, before the cap; even if not applied
    importance_max: float = float("nan")
    importance_capped: float = float("nan")  # fraction of tokens above algorithm.importance_cap; even if not applied


def bad_steps(in_a_row: int, update: int) -> str:
    return (
        f"{in_a_row} optimizer steps in a row had a non-finite loss or gradient (update {update}): lower learner.lr, "
        "or look at their sequences in bad_steps.jsonl of the run folder"
    )
