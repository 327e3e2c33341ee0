"""The clipped surrogate and the KL term that the per-token weights multiply.

    ratio_t = exp(clamp(log pi_t - log pi_old_t, -B, B))
    L = - sum_t w_t min(ratio_t A_t, clip(ratio_t, 1 - eps, 1 + eps) A_t)           (PPO, arXiv 1707.06347, eq. 7)
        + beta sum_t v_t (exp(d_t) - d_t - 1),  d_t = clamp(log ref_t - log pi_t, -B, B)       (k3 estimate)

B bounds both exponents: an unbounded ratio in the second optimizer step of a batch ends in NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Per-token parts, f32[N]; the loss is `surrogate.sum() + beta * kl.sum()`."""

    surrogate: Tensor  # w_t times minus the clipped surrogate
    kl: Tensor  # v_t times the k3 estimate, nats; zero without a reference
    ratio: Tensor  # detached
    clipped: Tensor  # bool[N]: the clip took the gradient away


def policy_losses(
    logprobs: Tensor,  # f32[N], with gradient
    old_logprobs: Tensor,  # f32[N]
    ref_logprobs: Tensor | None,  # f32[N]
    advantages: Tensor,  # f32[N]
    weights: Tensor,  # f32[N], zero on prompt tokens
    kl_weights: Tensor,  # f32[N]
    clip: float,
    max_log_ratio: float,
) -> TokenLosses:
    ratio = (logprobs - old_logprobs).clamp(-max_log_ratio, max_log_ratio).exp()
    free = ratio * advantages
    bound = ratio.clamp(1 - clip, 1 + clip) * advantages
    surrogate = -weights * torch.minimum(free, bound)
    if ref_logprobs is None:
        kl = torch.zeros_like(surrogate)
    else:
        gap = (ref_logprobs - logprobs).clamp(-max_log_ratio, max_log_ratio)
        kl = kl_weights * (gap.exp() - gap - 1)
    return TokenLosses(surrogate, kl, ratio.detach(), bound.detach() < free.detach())
