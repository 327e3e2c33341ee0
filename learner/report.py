"""What one update did, in numbers that people look for. In: sums over tokens. Out: `StepReport`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means are over the response tokens that were learnt from; loss parts are sums of weighted terms."""

    updates: int  # optimizer steps done since the start of training
    skipped: int  # optimizer steps of this batch skipped for a non-finite loss or gradient
    tokens: int  # prompts included
    seconds: float
    lr: float
    loss: float = float("nan")
    loss_control: float = float("nan")  # of the t = 0 tokens
    loss_response: float = float("nan")
    loss_kl: float = float("nan")  # coefficient included
    loss_think: float = float("nan")  # surrogate by mode
    loss_short: float = float("nan")
    grad_norm: float = float("nan")  # before clipping, mean over the optimizer steps
    entropy: float = float("nan")  # nats
    kl: float = float("nan")  # k3 to the reference, nats
    clip_fraction: float = float("nan")
    mismatch_kl: float = float("nan")  # k3 of sampler against learner, nats
    mismatch_mean_abs: float = float("nan")  # |log-prob(sampler) - log-prob(learner)|, nats
    mismatch_max_abs: float = float("nan")
