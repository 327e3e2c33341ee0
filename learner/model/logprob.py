"""Log-probs and entropies of chosen tokens from hidden states, chunk by chunk: never one [N, vocab] float32 tensor.

In: hidden states, output head, token ids, a mask. Out: [N] tensors aligned with the tokens: entry i is for token i
given those before it. This file has the project's only shift by one. Must not know: losses, packing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _projection(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Callable[[slice], Tensor]:
    """Rows of the hidden states -> their logits [c, V] in `dtype`, as a new tensor: a chunk needs the memory of this
    and one more of its size. A GPU multiplies bfloat16 into float32; on a CPU both are widened, the head once."""
    if dtype == hidden.dtype:
        return lambda rows: hidden[rows] @ weight.T
    if hidden.is_cuda:
        return lambda rows: torch.mm(hidden[rows], weight.T, out_dtype=dtype)
    head = weight.to(dtype)
    return lambda rows: hidden[rows].to(dtype) @ head.T


class _ChunkedLogProbs(torch.autograd.Function):
    """Saves only hidden states and the log-normalizer; the backward pass recomputes each chunk's logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, float32: bool
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        ctx.head_dtype = wide if float32 else hidden.dtype
        project = _projection(hidden, weight, ctx.head_dtype)
        count = hidden.shape[0]  # M
        logprobs = torch.empty(count, dtype=wide, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        normalizers = torch.empty_like(logprobs)
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            logits = project(rows).to(wide).div_(temperature)  # [c, V]
            normalizer = torch.logsumexp(logits, dim=-1)  # [c]
            normalizers[rows] = normalizer
            logp = logits.sub_(normalizer[:, None])
            logprobs[rows] = logp.gather(-1, targets[rows, None])[:, 0]
            entropies[rows] = -logp.exp().mul_(logp).sum(-1)
            del logits, logp  # before the next chunk's are allocated
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        grad, wide = grads[0], normalizers.dtype
        project = _projection(hidden, weight, ctx.head_dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if ctx.needs_input_grad[1]:  # not if only adapters are trained
            grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logits = project(rows).to(wide).div_(ctx.temperature)
            grad_logits = logits.sub_(normalizers[rows, None]).exp_().mul_(-grad[rows, None])  # [c, V]
            grad_logits.scatter_add_(-1, targets[rows, None], grad[rows, None])
            grad_logits.div_(ctx.temperature)
            narrow = grad_logits.to(hidden.dtype)
            torch.mm(narrow, weight, out=grad_hidden[rows])
            if grad_weight is not None and narrow is grad_logits:
                torch.addmm(grad_weight, narrow.T, hidden[rows], out=grad_weight)
            elif grad_weight is not None:
                grad_weight.add_(narrow.T @ hidden[rows])  # adds bfloat16 to float32 without a copy of that size
            del logits, grad_logits, narrow
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


class LogProbHead(nn.Module):
    """Owns the output head's weight [V, H] (shared with the embedding when tied), so that ZeRO-3 gathers it here."""

    def __init__(self, weight: nn.Parameter, float32: bool = True):
        """float32: logits in float32 also where weight and hidden states are bfloat16, whose own product is rounded to
        8 bits: the largest part of the difference between two implementations of one model."""
        super().__init__()
        self.weight, self.float32 = weight, float32

    def forward(
        self, hidden: Tensor, token_ids: Tensor, response: Tensor, temperature: float, chunk: int, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, nats, float32[N]; zero where `response` is False.

        hidden: [n, H], of the row's tokens first .. first + n - 1; token_ids: i64[N]; response: bool[N], True only on
        tokens first + 1 .. first + n, never on a sequence's first token; temperature: logits are divided by it; chunk:
        rows of logits in memory at a time.
        """
        at = response.nonzero()[:, 0]  # [M] positions of the chosen tokens
        before = hidden[at - 1 - first]  # [M, H]: the state that predicts each
        logprobs, entropies = _ChunkedLogProbs.apply(
            before, self.weight, token_ids[at], temperature, chunk, self.float32
        )
        zeros = torch.zeros(len(token_ids), dtype=logprobs.dtype, device=hidden.device)
        return zeros.index_put((at,), logprobs), zeros.index_put((at,), entropies)
