"""One on-policy DeGRPO update written out: float64, one sequence at a time, transformers' own model.

In: model folders, judged groups. Out: the gradient of every tensor. The tests' reference of all algorithms
(`tests/helpers/naive.py`) takes its float64 models from here. Must not know: ranks, packing, learner/.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import AlgorithmConf, Form, Importance, KLEstimator, Loss, Old

TEMPERATURE = 0.6


def gradient(folder: str, reference: str, groups: list[Any], conf: AlgorithmConf) -> dict[str, Tensor]:
    """By name as transformers has it. conf: DeGRPO in the reference code's form, one optimizer step."""
    written = (Loss.degrpo, Form.code, Old.learner, Importance.none, KLEstimator.k3, 1)
    asked = (conf.loss, conf.form, conf.old, conf.importance, conf.kl_estimator, conf.optimizer_steps)
    assert asked == written, f"not written out here: {asked}"
    model, frozen = load(folder), load(reference).requires_grad_(False)
    count = sum(len(group.trajectories) for group in groups)
    body = sum(len(t.token_ids) - 1 for group in groups for t in group.trajectories)
    for group in groups:
        mean = float(group.rewards.astype(np.float64).mean())
        for trajectory, reward in zip(group.trajectories, group.rewards.tolist(), strict=True):
            new, ref = (logprobs(policy, trajectory, TEMPERATURE)[0] for policy in (model, frozen))
            weights = torch.full_like(new, 1 / body)
            weights[0] = conf.alpha / count
            surrogate = -weights * (reward - mean) * torch.exp(new - new.detach())
            kl = (torch.exp(ref - new) - (ref - new) - 1) / (body + count)
            (surrogate.sum() + conf.kl * kl.sum()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def relative_error(got: Any, want: Tensor, least: float = 0.0) -> float:
    """||got - want|| / max(||want||, least) in float64."""
    got = torch.as_tensor(got).double()
    return float((got - want.double()).norm()) / max(float(want.double().norm()), least)


def load(folder: str) -> Any:
    """In float64 throughout: transformers' RMS norms and eager softmax would go through float32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").train()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_rms_norm, module)
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # sdpa ignores it
    return model


def _rms_norm(module: Any, states: Tensor) -> Tensor:
    weight, eps = (
        (1 + module.weight, module.eps) if hasattr(module, "eps") else (module.weight, module.variance_epsilon)
    )
    return weight * states / (states.square().mean(-1, keepdim=True) + eps).sqrt()  # Gemma's have an eps


def logprobs(model: Any, trajectory: Any, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [T] of the response's tokens and entropies [T] where they were sampled."""
    prompt = len(trajectory.prompt.token_ids)
    ids = torch.tensor(np.concatenate([trajectory.prompt.token_ids, trajectory.token_ids])).long()
    table = (model(ids[None]).logits[0] / temperature).log_softmax(-1)[prompt - 1 : -1]  # [T, V]
    return table.gather(-1, ids[prompt:, None])[:, 0], -(table.exp() * table).sum(-1)
