"""Log-probs and entropies of chosen tokens from hidden states, chunk by chunk: never one [N, vocab] float32 tensor.

In: hidden states, output head, token ids, a mask. Out: [N] tensors aligned with the tokens: entry i is for token i
given those before it. This file has the project's only shift by one. Must not know: losses, packing.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn


def _logits(
    hidden: Tensor, weight: Tensor, temperature: float, out: Tensor, float32: bool, offset: Tensor | None = None
) -> Tensor:
    """out [n, v] = hidden [n, H] @ weight [v, H].T / temperature + offset [n, 1], scaled by the product itself;
    the shift costs one write of out, which the product then adds to (torch.addmm copies the broadcast offset there).
    float32: the product of bfloat16 states is not rounded (a GPU multiplies bfloat16 into float32; on a CPU the caller
    has widened both)."""
    beta, base = (0, out) if offset is None else (1, offset)
    if hidden.dtype == out.dtype or float32:
        given: Any = {} if hidden.dtype == out.dtype else {"out_dtype": out.dtype}
        return torch.addmm(base, hidden, weight.T, **given, beta=beta, alpha=1 / temperature, out=out)
    out.copy_(hidden @ weight.T).div_(temperature)
    return out if offset is None else out.add_(offset)


class _ChunkedLogProbs(torch.autograd.Function):
    """Saves hidden states, log-probs and log-normalizers; the backward pass recomputes the logits.

    Forward by rows, each with the whole vocabulary. Backward, if the vocabulary is larger than the number of rows, by
    blocks of the vocabulary with all rows: a block of the head's gradient is then one product, and only the hidden
    states' gradient is added up (as in deepspeed.sequence.linear_cross_entropy, which has no temperature and rounds
    logits on a CPU). Both work in buffers of chunk x V elements, allocated once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        float32: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        states, head = hidden, weight
        if float32 and not hidden.is_cuda:
            states, head = hidden.to(wide), weight.to(wide)
        count, vocabulary = len(hidden), len(weight)  # M, V
        logprobs = torch.empty(count, dtype=wide, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else None
        one, other = (logprobs.new_empty(min(chunk, count), vocabulary) for _ in range(2))
        for start in range(0, count, chunk):
            rows = slice(start, min(start + chunk, count))
            ids, size = targets[rows, None], rows.stop - start
            logits = _logits(states[rows], head, temperature, one[:size], float32)  # [c, V]
            logp = torch.log_softmax(logits, -1, out=other[:size])
            chosen = logp.gather(-1, ids)
            logprobs[rows] = chosen[:, 0]
            normalizers[rows] = (logits.gather(-1, ids) - chosen)[:, 0]
            if entropies is not None:
                entropies[rows] = -torch.exp(logp, out=logits).mul_(logp).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, logprobs, normalizers)
        ctx.temperature, ctx.chunk, ctx.float32 = temperature, chunk, float32
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """d logp / d logits = (one-hot - p) / T: in each block minus this, [M, b]; its factor, the log-prob's gradient,
        is applied to rows of H elements instead: to the sum before it leaves, to the states that it multiplies."""
        hidden, weight, targets, logprobs, normalizers = ctx.saved_tensors
        count, vocabulary, wide = len(hidden), len(weight), normalizers.dtype
        if not count:
            return (torch.zeros_like(hidden), torch.zeros_like(weight), *[None] * 5)
        factor = (grads[0] / -ctx.temperature)[:, None]  # [M, 1]
        states = hidden.to(wide) if ctx.float32 and not hidden.is_cuda else hidden
        scaled = (states * factor).to(states.dtype)
        grad_hidden = torch.zeros(hidden.shape, dtype=wide, device=hidden.device)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None  # none if adapters are trained
        # rows x width of a block: all rows if the vocabulary is the larger, else all of the vocabulary
        rows = count if vocabulary > count else min(ctx.chunk, count)
        width = max(1, vocabulary * min(ctx.chunk, count) // rows)
        if grad_weight is not None and rows < count:
            grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        one = logprobs.new_empty(rows * width)
        other = one if states.dtype == wide else states.new_empty(rows * width)
        own = torch.expm1(logprobs).to(states.dtype)[:, None]  # p - 1 of the chosen token, exact where p is near 1
        for start, first in itertools.product(range(0, vocabulary, width), range(0, count, rows)):
            some, here = slice(start, min(start + width, vocabulary)), slice(first, min(first + rows, count))
            shape = here.stop - here.start, some.stop - some.start
            head, size = weight[some].to(states.dtype), shape[0] * shape[1]
            logits = one[:size].view(shape)
            _logits(states[here], head, ctx.temperature, logits, ctx.float32, offset=-normalizers[here, None])
            p = torch.exp(logits, out=other[:size].view(shape))
            at = targets[here, None] - start
            inside, at = (at >= 0) & (at < shape[1]), at.clamp(0, shape[1] - 1)
            p.scatter_(-1, at, torch.where(inside, own[here], p.gather(-1, at)))
            if grad_weight is not None and rows < count:
                _add_product(grad_weight[some], p.T, scaled[here])
            elif grad_weight is not None:
                grad_weight[some] = p.T @ scaled
            _add_product(grad_hidden[here], p, head)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden.mul_(factor).to(hidden.dtype), grad_weight, None, None, None, None, None


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """total += one @ other; a GPU adds bfloat16's products in total's float32, a CPU after rounding each."""
    if one.dtype == total.dtype or one.is_cuda:
        given: Any = {} if one.dtype == total.dtype else {"out_dtype": total.dtype}
        torch.addmm(total, one, other, **given, out=total)
    else:
        total.add_(one @ other)


def _plain_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, float32: bool, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """The same by torch's own operators, with all logits [M, V] and their gradients in memory."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(wide) @ weight.to(wide).T if float32 else hidden @ weight.T
    return of_logits(logits, targets, temperature, entropy)


def of_logits(logits: Tensor, targets: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """[M, V] logits of any dtype, i64[M] -> log-probs and, if wanted, entropies, nats, float32[M] (float64 stays)."""
    logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
    entropies = -(logp.detach().exp() * logp.detach()).sum(-1) if entropy else None
    return logp.gather(-1, targets[:, None])[:, 0], entropies


class LogProbHead(nn.Module):
    """Owns the output head's weight [V, H] (shared with the embedding when tied), so that ZeRO-3 gathers it here."""

    def __init__(self, weight: nn.Parameter, float32: bool = True, fused: bool = True):
        """float32: logits in float32 also where weight and hidden states are bfloat16, whose own product is rounded to
        8 bits: the largest part of the difference between two implementations of one model. fused: False for torch's
        log_softmax of all logits at once, to compare with."""
        super().__init__()
        self.weight, self.float32, self.fused = weight, float32, fused

    def forward(
        self,
        hidden: Tensor,
        token_ids: Tensor,
        response: Tensor,
        temperature: float,
        chunk: int,
        first: int = 0,
        entropy: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies, nats, float32[N]; zero where `response` is False.

        hidden: [n, H], of the row's tokens first .. first + n - 1; token_ids: i64[N]; response: bool[N], True only on
        tokens first + 1 .. first + n, never on a sequence's first token; temperature: logits are divided by it; chunk:
        rows of logits in memory at a time; entropy: False if nobody reads entropies, which are then None: they take
        as long as everything else that a forward pass does with the logits.
        """
        at = response.nonzero()[:, 0]  # [M] positions of the chosen tokens
        before = hidden.index_select(0, at - 1 - first)  # [M, H]: the state that predicts each
        logprobs, entropies = self.of_states(before, token_ids.index_select(0, at), temperature, chunk, entropy)
        zeros = torch.zeros(len(token_ids), dtype=logprobs.dtype, device=hidden.device)
        placed = zeros.index_copy(0, at, logprobs)
        return placed, None if entropies is None else zeros.index_copy(0, at, entropies)

    def of_states(
        self, states: Tensor, targets: Tensor, temperature: float, chunk: int, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """[M, H] states, i64[M]: the token that each predicts -> log-probs and entropies, [M]."""
        if not self.fused:
            return _plain_logprobs(states, self.weight, targets, temperature, self.float32, entropy)
        found: tuple[Tensor, Tensor | None] = _ChunkedLogProbs.apply(
            states, self.weight, targets, temperature, chunk, self.float32, entropy
        )
        return found
