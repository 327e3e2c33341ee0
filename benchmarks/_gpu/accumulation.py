"""Gradients of many micro-batches, as DeepSpeed adds them under a bfloat16 model, against their float32 sum.

In: nothing but `small`. Out: figures. Must not know: objectives beyond one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._figures import figure
from benchmarks._gpu.setup import TINY, learner_conf, random_folder, the_device
from benchmarks._learner.setup import started_worker
from conf.schema import Dtype
from learner.data.flops import Shape
from learner.model.attention import Layout

MICRO_BATCHES, TOKENS = 80, 512
SHAPE = Shape(hidden=512, layers=4, heads=8, kv_heads=2, head_dim=64, ffn=1536, vocab=8192)


def accumulation(small: bool) -> None:
    device, shape, tokens = the_device(small), TINY if small else SHAPE, 24 if small else TOKENS
    rng = np.random.default_rng(0)
    rows = [torch.from_numpy(rng.integers(0, shape.vocab, tokens)).to(device) for _ in range(MICRO_BATCHES)]
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = random_folder(Path(scratch), shape, torch.bfloat16, device)
        wanted: dict[str, Tensor] = {}
        for stage in (1, 2):
            engine_conf = learner_conf(device, zero_stage=stage, max_grad_norm=0.0, max_tokens=tokens)
            worker = started_worker(path, engine_conf, Dtype.bfloat16)
            if not wanted:
                wanted, narrow = summed(worker.engine.policy, rows)
                figure("accumulation_error_bfloat16", worst(narrow, wanted), "relative L2 error of the worst tensor")
            got = added(worker.engine, rows)
            figure(
                f"accumulation_error_zero{stage}", worst(got, wanted), "relative L2 error of the worst tensor", 0.003
            )
            del worker  # not closed: DeepSpeed keeps the process group that it first saw


def loss(policy: Any, row: Tensor) -> Tensor:
    """Of one micro-batch; policy: an engine or its policy."""
    position = torch.arange(len(row), device=row.device)
    logprobs, _ = policy(row, position, position > 0, Layout([len(row)], row.device), 1.0, 1024)
    return -logprobs.sum() / (MICRO_BATCHES * len(row))


def summed(policy: Any, rows: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each micro-batch's own bfloat16 gradients, added in float64, and in bfloat16. Before the engine has any."""
    wide: dict[str, Tensor] = {}
    narrow: dict[str, Tensor] = {}
    names = [name for name, _ in policy.named_parameters()]
    for row in rows:
        grads = torch.autograd.grad(loss(policy, row), list(policy.parameters()))
        for name, grad in zip(names, grads, strict=True):
            wide[name] = wide[name] + grad.double() if name in wide else grad.double()
            narrow[name] = narrow[name] + grad if name in narrow else grad.clone()
    return wide, narrow


def added(engine: Any, rows: list[Tensor]) -> dict[str, Tensor]:
    """What DeepSpeed is about to apply."""
    from deepspeed.utils import safe_get_full_grad

    taken: dict[str, Tensor] = {}
    original = engine.deepspeed._take_model_step

    def take(lr_kwargs: Any) -> Any:
        for name, parameter in engine.policy.named_parameters():
            grad = safe_get_full_grad(parameter)
            assert grad is not None, f"{name} has no gradient"
            taken[name] = grad.detach().double().clone()
        return original(lr_kwargs)

    engine.deepspeed._take_model_step = take
    for row in rows:
        engine.accumulate(loss(engine, row))
    engine.step(0.0)
    return taken


def worst(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    return max(float((got[name].double() - one).norm() / one.norm()) for name, one in want.items())
