"""The clipped surrogate and the KL term that the per-token weights multiply.

    r_t = exp(log pi_t - log q_t)                                                           with gradient
    o_t = min(r_t A, clip(r_t, 1 - eps, 1 + eps_high) A)            PPO, arXiv 1707.06347, eq. 7; eps_high: DAPO's
                                                                    clip-higher, arXiv 2503.14476
    o_t = max(o_t, c A)  where A < 0                                dual clip, arXiv 1912.09729
    m_t = exp(log old_t - log mu_t)                                 importance weight, no gradient
    L = - sum_t w_t f(m_t) o_t + beta sum_t v_t k(d_t),   d_t = log ref_t - log pi_t

pi: the policy being trained. old: the learner's before the batch's first optimizer step (old_logprobs). mu: the
sampler's (behavior_logprobs), which comes from another engine and, with batches sampled ahead, from older weights. q is
old or mu (`algorithm.old`). All log-ratios are clamped to +-max_log_ratio: an unbounded ratio in the second optimizer
step of a batch ends in NaN.

f (`algorithm.importance`, with C = `algorithm.importance_cap`):

    none        1
    truncate    min(m, C): truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings
                you off-policy RL training")
    mask        m, but 0 above C: such tokens leave the surrogate, as in AReaL's code

The decoupled PPO objective (arXiv 2110.00641; AReaL, 2505.24298) weighs a surrogate against a proximal policy by
prox / mu. With the learner's policy before the update as proximal policy, as in AReaL, that is the formula of truncated
importance sampling: old = prox. They differ in what m corrects, another engine's rounding (m near 1) or stale weights,
and in how their code treats values above the cap.

k (`algorithm.kl_estimator`; Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html). The note compares
estimators of KL(pi || ref). Here they are loss terms, so what matters is their gradients, on tokens sampled from pi:

    k1 = -d                 gradient grad log pi, with mean 0: it does not pull towards the reference, it only adds
                            noise (correct as a value, and as a penalty in the reward)
    k2 = d^2 / 2            gradient -d grad log pi, with the mean of grad KL(pi || ref)
    k3 = exp(d) - d - 1     gradient (1 - exp(d)) grad log pi, with the mean of grad KL(ref || pi), the other direction;
                            equal to k2's to first order in d, at most 1 if pi is large relative to ref, growing as
                            exp(d) if it is small
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.schema import AlgorithmConf, Importance, KLEstimator, Old

KL_ESTIMATES: dict[KLEstimator, Callable[[Tensor], Tensor]] = {
    KLEstimator.k1: lambda d: -d,
    KLEstimator.k2: lambda d: d.square() / 2,
    KLEstimator.k3: lambda d: d.exp() - d - 1,
}


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Per-token parts, [N]; the loss is `surrogate.sum() + beta * kl.sum()`. All but these two are detached."""

    surrogate: Tensor  # w_t f(m_t) times minus the clipped surrogate
    kl: Tensor  # v_t times the estimate, nats; zero without a reference
    ratio: Tensor  # r_t
    high: Tensor  # bool: the upper bound removed the gradient (A > 0)
    low: Tensor  # bool: the lower bound did (A < 0)
    dual: Tensor  # bool: the dual clip did (A < 0)

    @property
    def clipped(self) -> Tensor:
        return self.high | self.low | self.dual


def importance_weights(old_logprobs: Tensor, behavior_logprobs: Tensor, conf: AlgorithmConf) -> Tensor:
    """m_t, before the cap."""
    return (old_logprobs - behavior_logprobs).detach().clamp(-conf.max_log_ratio, conf.max_log_ratio).exp()


def policy_losses(
    logprobs: Tensor,  # [N], with gradient
    old_logprobs: Tensor | None,  # [N], the learner's before the update; not needed with conf.old = sampler
    behavior_logprobs: Tensor,  # [N], the sampler's
    ref_logprobs: Tensor | None,  # [N]; None: no KL term
    advantages: Tensor,  # [N]
    weights: Tensor,  # [N], zero on prompt tokens
    kl_weights: Tensor,  # [N]
    conf: AlgorithmConf,
) -> TokenLosses:
    bound = conf.max_log_ratio
    q_logprobs = behavior_logprobs if conf.old is Old.sampler else old_logprobs
    assert q_logprobs is not None
    ratio = (logprobs - q_logprobs).clamp(-bound, bound).exp()
    high = conf.clip if conf.clip_high is None else conf.clip_high
    free = ratio * advantages
    clipped = ratio.clamp(1 - conf.clip, 1 + high) * advantages
    objective = torch.minimum(free, clipped)
    beyond = clipped.detach() < free.detach()
    if conf.dual_clip is None:
        dual = torch.zeros_like(beyond)
    else:
        least = conf.dual_clip * advantages
        dual = (advantages < 0) & (free.detach() < least)
        objective = torch.where(dual, least, objective)
    if conf.importance is not Importance.none:
        assert old_logprobs is not None
        objective = objective * _capped(importance_weights(old_logprobs, behavior_logprobs, conf), conf)
    if ref_logprobs is None:
        kl = torch.zeros_like(objective)
    else:
        kl = kl_weights * KL_ESTIMATES[conf.kl_estimator]((ref_logprobs - logprobs).clamp(-bound, bound))
    return TokenLosses(
        -weights * objective, kl, ratio.detach(), beyond & (advantages > 0), beyond & (advantages < 0), dual
    )


def _capped(weights: Tensor, conf: AlgorithmConf) -> Tensor:
    """f(m_t)."""
    if conf.importance is Importance.truncate:
        return weights.clamp(max=conf.importance_cap)
    return torch.where(weights > conf.importance_cap, 0.0, weights)
