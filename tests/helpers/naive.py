"""The method once more, for comparison: float64, one sequence at a time, plain loops, transformers' own model.

Shares nothing with learner/ but the configuration: weights, advantages and losses are written out from the equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._learner.reference import load, logprobs
from conf.schema import AlgorithmConf, Form, Importance, KLEstimator, LearnerConf, Loss, Old
from reward.group import Group
from reward.verdict import Outcome, Verdict
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

VOCABULARY = 264


def make_group(
    rng: np.random.Generator,
    prompt_tokens: int,
    lengths: list[int],
    rewards: list[float],
    unjudged: int = 0,
    uid: str = "",
) -> Group:
    """A judged group of random tokens: responses of `lengths` tokens with `rewards`."""
    ids = rng.integers(0, VOCABULARY, prompt_tokens).astype(np.int32)
    prompt = Prompt(uid or f"q{rng.integers(1 << 40)}", "?", ids, "1", "test")
    trajectories = tuple(
        Trajectory(
            prompt=prompt,
            sibling=i,
            token_ids=rng.integers(0, VOCABULARY, length).astype(np.int32),
            behavior_logprobs=(rng.normal(size=length) - 6).astype(np.float32),
            mode=(Mode.THINK, Mode.SHORT, None)[rng.integers(3)],
            finish=Finish.STOP,
            versions=np.zeros(length, np.int32),
        )
        for i, length in enumerate(lengths)
    )
    verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, None, 0.0) for r in rewards)
    failed = (Verdict(Outcome.TIMED_OUT, None, 0.0),) * unjudged
    return Group(prompt, trajectories, verdicts, np.array(rewards, np.float32), failed)


def some_groups(seed: int, prompts: int = 4, siblings: int = 4, longest: int = 24) -> list[Group]:
    """Groups with everything that occurs: one-token responses, an uninformative group, an unjudged sibling."""
    rng = np.random.default_rng(seed)
    groups = []
    for p in range(prompts):
        lengths = [int(rng.integers(1, longest + 1)) for _ in range(siblings)]
        rewards = [float(rng.choice([1.0, 0.5, -1.0])) for _ in range(siblings)]
        if p == 0:
            lengths[0], rewards[:2] = 1, [1.0, -1.0]
        if p == 1:
            rewards = [1.0] * siblings
        groups.append(make_group(rng, int(rng.integers(1, 9)), lengths, rewards, unjudged=int(p == 2)))
    return groups


@dataclass
class Weighted:
    trajectory: Trajectory
    advantage: float
    weights: list[float]
    kl_weights: list[float]


def weighted(groups: list[Group], conf: AlgorithmConf) -> list[Weighted]:
    """What one optimizer step learns from: uninformative groups are counted in the denominators, and dropped."""
    everything = [t for group in groups for t in group.trajectories]
    N = len(everything) + sum(group.unjudged for group in groups)
    sum_T = sum(len(t.token_ids) - 1 for t in everything)
    kept = []
    for group in groups:
        if len(set(group.rewards.tolist())) < 2:
            continue
        mean = sum(group.rewards.tolist()) / len(group.rewards)
        for trajectory, reward in zip(group.trajectories, group.rewards.tolist(), strict=True):
            T = len(trajectory.token_ids) - 1
            paper = conf.form is Form.paper
            plain = 1 / (N * (T + 1)) if paper else 1 / (sum_T + len(everything))
            if conf.loss is Loss.dr_grpo:
                assert conf.length_constant is not None
                plain = 1 / (N * conf.length_constant)
            weights = []
            for t in range(T + 1):
                if conf.loss in (Loss.grpo, Loss.dr_grpo):
                    weights.append(plain)
                elif t == 0:
                    weights.append(conf.alpha / N)
                else:
                    weights.append(1 / (N * T) if paper else 1 / sum_T)
            kept.append(Weighted(trajectory, reward - mean, weights, [plain] * (T + 1)))
    return kept


@dataclass
class Token:
    """What one token adds, and which of the clips took its gradient away ("high", "low", "dual" or "")."""

    loss: Tensor
    ratio: float
    clipped: str
    importance: float  # before the cap; 1 where old is the sampler's


def token_loss(new: Tensor, own: float, behavior: float, advantage: float, weight: float, conf: AlgorithmConf) -> Token:
    """Minus the clipped surrogate, written with cases instead of minima. own: the learner's before the batch."""
    bound = conf.max_log_ratio
    anchor = behavior if conf.old is Old.sampler else own
    ratio = torch.exp(torch.clamp(new - anchor, -bound, bound))
    now, upper = float(ratio.detach()), conf.clip if conf.clip_high is None else conf.clip_high
    m = math.exp(max(-bound, min(bound, own - behavior)))
    factor = weight
    if conf.importance is Importance.truncate:
        factor *= m if m < conf.importance_cap else conf.importance_cap
    if conf.importance is Importance.mask:
        factor *= m if m <= conf.importance_cap else 0.0
    if advantage > 0 and now > 1 + upper:
        value, clipped = 1 + upper, "high"
    elif advantage < 0 and now < 1 - conf.clip:
        value, clipped = 1 - conf.clip, "low"
    elif advantage < 0 and conf.dual_clip is not None and now > conf.dual_clip:
        value, clipped = conf.dual_clip, "dual"
    else:
        return Token(-factor * advantage * ratio, now, "", m)
    return Token(torch.tensor(-factor * advantage * value, dtype=torch.float64), now, clipped, m)


def kl_estimate(new: Tensor, ref: float, conf: AlgorithmConf) -> Tensor:
    d = torch.clamp(ref - new, -conf.max_log_ratio, conf.max_log_ratio)
    if conf.kl_estimator is KLEstimator.k1:
        return -d
    return d * d / 2 if conf.kl_estimator is KLEstimator.k2 else torch.exp(d) - d - 1


@dataclass
class Terms:
    """Sums over one optimizer step."""

    loss: Tensor
    control: float
    entropy: float  # mean over learnt tokens
    kl: float  # k3, whatever the loss has
    clipped: float
    grad_norm: float = 0.0  # of all tensors together, before clipping
    tokens: list[Token] = field(default_factory=list)


def step_loss(
    model: Any,
    items: list[Weighted],
    old: list[Tensor] | None,
    ref: list[Tensor] | None,
    conf: AlgorithmConf,
    temperature: float,
) -> Terms:
    """The loss of one optimizer step, with its graph."""
    total = torch.zeros((), dtype=torch.float64)
    control, entropy, kls, tokens = 0.0, 0.0, 0.0, []
    for i, item in enumerate(items):
        new, entropies = logprobs(model, item.trajectory, temperature)
        before = (new.detach() if old is None else old[i]).tolist()
        behavior = item.trajectory.behavior_logprobs.astype(np.float64).tolist()
        for t in range(len(new)):
            token = token_loss(new[t], before[t], behavior[t], item.advantage, item.weights[t], conf)
            total = total + token.loss
            control += float(token.loss.detach()) if t == 0 else 0.0
            tokens.append(token)
            if ref is not None:
                kls += float(kl_estimate(new[t], float(ref[i][t]), replace(conf, kl_estimator=KLEstimator.k3)).detach())
                total = total + conf.kl * item.kl_weights[t] * kl_estimate(new[t], float(ref[i][t]), conf)
        entropy += float(entropies.detach().sum())
    count = len(tokens)
    clipped = sum(bool(token.clipped) for token in tokens)
    return Terms(total, control, entropy / count, kls / count, clipped / count, tokens=tokens)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def one_update(
    folder: str, reference: str | None, groups: list[Group], conf: AlgorithmConf, temperature: float = 0.6
) -> tuple[dict[str, Tensor], Terms]:
    """Gradients of a single on-policy optimizer step over `groups`."""
    model, items = load(folder), weighted(groups, conf)
    ref = None
    if reference is not None:
        frozen = load(reference)
        with torch.no_grad():
            ref = [logprobs(frozen, item.trajectory, temperature)[0] for item in items]
    terms = step_loss(model, items, None, ref, conf, temperature)
    terms.loss.backward()
    return gradients(model), terms


def several_updates(
    folder: str,
    reference: str,
    parts: list[list[Group]],
    conf: AlgorithmConf,
    learner: LearnerConf,
    temperature: float = 0.6,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Terms]]:
    """(last gradients before clipping, weights after, terms): an AdamW step per part, old log-probs of the start."""
    model, frozen = load(folder), load(reference)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=learner.lr,
        betas=(learner.betas[0], learner.betas[1]),
        eps=learner.eps,
        weight_decay=learner.weight_decay,
    )
    items = [weighted(part, conf) for part in parts]
    with torch.no_grad():
        ref = [[logprobs(frozen, item.trajectory, temperature)[0] for item in part] for part in items]
        old = [[logprobs(model, item.trajectory, temperature)[0] for item in part] for part in items]
    taken, all_terms = {}, []
    for k, part in enumerate(items):
        optimizer.zero_grad()
        terms = step_loss(model, part, old[k] if len(parts) > 1 else None, ref[k], conf, temperature)
        terms.loss.backward()
        taken = gradients(model)
        terms.grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), learner.max_grad_norm))
        optimizer.step()
        all_terms.append(terms)
    return taken, {name: p.detach().clone() for name, p in model.named_parameters()}, all_terms
