"""The learner's packed attention in bfloat16 against float32, forward and backward.

In: nothing but `small`. Out: figures. Must not know: models, engines.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._figures import figure, say
from benchmarks._gpu.setup import seconds, the_device
from learner.model.attention import FA3_MODULE, Layout, packed_attention

LONGEST, HEADS, KV_HEADS, HEAD_DIM = 24_576, 12, 2, 128
CHUNK = 1024  # queries of the reference at a time
GOAL = 0.01  # bfloat16's own rounding of the output is 0.002


def attention(small: bool) -> None:
    device = the_device(small)
    compared(device, small, "")
    if device.type == "cpu":
        return
    if torch.cuda.get_device_capability(device)[0] != 9 or importlib.util.find_spec(FA3_MODULE) is None:
        return say(f"flash attention 3 is left out: it needs an H100 or H200, and a package with {FA3_MODULE}")
    torch.nn.attention.activate_flash_attention_impl("FA3")
    compared(device, small, "_fa3")


def rows(small: bool) -> dict[str, list[int]]:
    """Lengths of each row's sequences."""
    total = LONGEST // 64 if small else LONGEST
    ragged = np.random.default_rng(0).lognormal(0.0, 1.0, 12)
    lengths = np.maximum((ragged / ragged.sum() * total).astype(int), 1)
    lengths[0] += total - lengths.sum()
    return {"row": [total], "ragged": lengths.tolist()}


def compared(device: torch.device, small: bool, suffix: str) -> None:
    heads, kv_heads, dim = (4, 2, 16) if small else (HEADS, KV_HEADS, HEAD_DIM)
    for name, lengths in rows(small).items():
        total = sum(lengths)
        generator = torch.Generator(device).manual_seed(1)

        def normal(count: int, total: int = total, generator: Any = generator) -> Tensor:
            states = torch.randn(1, count, total, dim, generator=generator, device=device)
            return states.bfloat16().requires_grad_()

        query, key, value = normal(heads), normal(kv_heads), normal(kv_heads)
        grad = torch.randn(1, total, heads, dim, generator=generator, device=device).bfloat16()
        layout = Layout(lengths, device)

        def run(query: Tensor = query, key: Tensor = key, value: Tensor = value, grad: Tensor = grad,
                layout: Layout = layout) -> Tensor:  # fmt: skip
            for one in (query, key, value):
                one.grad = None
            out, _ = packed_attention(None, query, key, value, None, layout=layout)
            out.backward(grad)
            return out.detach()

        out = run()
        taken = min(seconds(device, run) for _ in range(1 if small else 5))
        wanted, grads = reference(query, key, value, grad, lengths)
        errors = [relative(one.grad, want) for one, want in zip((query, key, value), grads, strict=True)]
        flops = 7 * sum(n * n for n in lengths) * heads * dim  # 2 products forward, 5 backward, the causal half of each
        figure(f"attention_error_{name}{suffix}", relative(out, wanted), "relative L2 error", GOAL)
        figure(f"attention_grad_error_{name}{suffix}", max(errors), "relative L2 error, worst of q, k, v", GOAL)
        figure(f"attention_tflops_{name}{suffix}", flops / taken / 1e12, "TFLOP/s, forward and backward")


def reference(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, lengths: list[int]
) -> tuple[Tensor, list[Tensor]]:
    """Attention written out in float32, a few queries at a time: output and gradients of q, k, v."""
    q, k, v = (one.detach()[0].float().requires_grad_() for one in (query, key, value))  # [heads, N, D]
    groups, out = q.shape[0] // k.shape[0], torch.empty_like(q)
    start = 0
    for length in lengths:
        for first in range(0, length, CHUNK):
            last = min(first + CHUNK, length)
            here, past = slice(start + first, start + last), slice(start, start + last)
            keys, values = (one[:, past].repeat_interleave(groups, 0) for one in (k, v))
            scores = q[:, here] @ keys.transpose(1, 2) * q.shape[-1] ** -0.5  # [heads, c, last]
            at = torch.arange(first, last, device=q.device)[:, None]
            scores = scores.masked_fill(torch.arange(last, device=q.device)[None] > at, float("-inf"))
            part = scores.softmax(-1) @ values
            part.backward(grad[0, here].transpose(0, 1).float())
            out[:, here] = part.detach()
        start += length
    grads = [one.grad for one in (q, k, v)]
    return out.detach().transpose(0, 1)[None], [one[None] for one in grads if one is not None]


def relative(got: Any, want: Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())
