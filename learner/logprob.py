"""Log-probs and entropies of chosen tokens from hidden states, chunk by chunk: never one [N, vocab] float32 tensor.

In: hidden states, output head, token ids, a mask. Out: [N] tensors aligned with the tokens themselves: entry i speaks
of token i given those before it. This file holds the project's only shift by one. Must not know: losses, packing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ChunkedLogProbs(torch.autograd.Function):
    """Keeps hidden states and the log-normalizer only; the backward pass recomputes each chunk's logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        count = hidden.shape[0]  # M
        logprobs = torch.empty(count, dtype=wide, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        normalizers = torch.empty_like(logprobs)
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            logits = (hidden[rows] @ weight.T).to(wide) / temperature  # [c, V]
            normalizer = torch.logsumexp(logits, dim=-1)  # [c]
            normalizers[rows] = normalizer
            logprobs[rows] = logits.gather(-1, targets[rows, None])[:, 0] - normalizer
            entropies[rows] = normalizer - ((logits - normalizer[:, None]).exp() * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        grad, wide = grads[0], normalizers.dtype
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logits = (hidden[rows] @ weight.T).to(wide) / ctx.temperature
            grad_logits = -(logits - normalizers[rows, None]).exp() * grad[rows, None]  # [c, V]
            grad_logits.scatter_add_(-1, targets[rows, None], grad[rows, None])
            grad_logits /= ctx.temperature
            grad_hidden[rows] = grad_logits.to(hidden.dtype) @ weight
            grad_weight += (grad_logits.to(hidden.dtype).T @ hidden[rows]).to(wide)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


class LogProbHead(nn.Module):
    """Owns the output head's weight [V, H] (shared with the embedding when tied), so that ZeRO-3 gathers it here."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(
        self, hidden: Tensor, token_ids: Tensor, response: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, nats, float32[N]; zero where `response` is False.

        hidden: [N, H]; token_ids: i64[N]; response: bool[N], never True on a sequence's first token;
        temperature: logits are divided by it; chunk: rows of logits that exist at one time.
        """
        at = response.nonzero()[:, 0]  # [M] positions of the chosen tokens
        logprobs, entropies = _ChunkedLogProbs.apply(hidden[at - 1], self.weight, token_ids[at], temperature, chunk)
        zeros = torch.zeros(len(token_ids), dtype=logprobs.dtype, device=hidden.device)
        return zeros.index_put((at,), logprobs), zeros.index_put((at,), entropies)
