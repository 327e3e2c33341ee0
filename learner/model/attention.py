"""Causal attention over packed sequences, registered with transformers under the name `packed`.

In: queries, keys and values of one row with several sequences, and the row's `Layout`. Out: the attention output, with
nothing leaking between sequences. A prompt shared by siblings is in the row's states once, and each sibling attends to
it. On a GPU this is flash attention over sequence boundaries (`torch.nn.attention.varlen`); elsewhere sequences of
similar length are padded into one causal sdpa call, which costs the same as per-sequence attention without its many
small calls. Under sequence parallelism a rank holds a part of the row's tokens; the layout's `exchange` swaps it for
all tokens of a part of the heads, and back. Must not know: models, losses, process groups.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conf.schema import FlashAttention
from learner.data.pack import buckets
from rollout.base.errors import BadInput

NAME = "packed"
FA3_MODULE = "flash_attn_interface"  # of package flash_attn_3; torch looks for it under this name

# (attention over whole rows, query, key, value), each [1, tokens of this rank, heads, D] -> output of that shape
Exchange = Callable[[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor, Tensor, Tensor], Tensor]


class Layout:
    """The position of each sequence in a packed row, and how sequences of similar length are padded together.

    lengths: tokens of each sequence, in row order. Built once per micro-batch and used by every layer. part, parts:
    this rank holds tokens [start, stop) of the row, one of `parts` equal parts, and `exchange` swaps tokens for heads.
    If siblings share a prompt, [start, stop) counts only computed tokens.
    """

    def __init__(
        self,
        lengths: list[int],
        device: torch.device | str = "cpu",
        part: int = 0,
        parts: int = 1,
        exchange: Exchange | None = None,
        origins: np.ndarray | None = None,
    ):
        """origins: see `learner.data.shared_prefix`; None (always so under sequence parallelism): all are computed."""
        if sum(lengths) % parts:
            raise ValueError(f"a row of {sum(lengths)} tokens cannot be divided over {parts} ranks: pad it")
        self.lengths, self.part, self.parts, self.exchange = lengths, part, parts, exchange
        share = sum(lengths) // parts
        self.start, self.stop = part * share, (part + 1) * share
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        self.computed: Tensor | None = None  # i64[n], the computed ones of the N tokens; None: all
        self.place: Tensor | None = None  # i64[N], each token's index among those
        own = torch.ones(starts[-1], dtype=torch.bool)  # not computed for an earlier sibling
        at = torch.arange(starts[-1])
        if origins is not None:
            if parts > 1:
                raise ValueError("siblings share no prompt under sequence parallelism")
            shared = torch.as_tensor(origins)
            own = shared == at
            at = (own.cumsum(0) - 1)[shared]
            self.computed, self.place = own.nonzero()[:, 0].to(device), at.to(device)
            self.stop = int(own.sum())
        self.buckets: list[tuple[Tensor, Tensor]] = []  # i64[B, L] of computed tokens; bool[B, L]: the output is used
        for members in buckets(lengths):
            width = lengths[members[-1]]
            first = torch.tensor([starts[i] for i in members])[:, None]
            size = torch.tensor([lengths[i] for i in members])[:, None]
            column = torch.arange(width)[None, :]
            index, valid = first + column.minimum(size - 1), column < size
            self.buckets.append((at[index].to(device), (valid & own[index]).to(device)))
        self._seen: dict[tuple[int, int | None], Tensor] = {}
        self.longest = max(lengths)
        self.boundaries = torch.tensor(starts, dtype=torch.int32, device=device)  # i32[sequences + 1]

    def seen(self, width: int, window: int | None) -> Tensor:
        """bool[L, L], L = width: whether token i attends to token j of its sequence. The same for every layer."""
        if (width, window) not in self._seen:
            everything = torch.ones(width, width, dtype=torch.bool, device=self.boundaries.device)
            causal = everything.tril()
            self._seen[width, window] = causal if window is None else causal & everything.triu(1 - window)
        return self._seen[width, window]


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, N, D], key/value [1, kv_heads, N, D] -> [1, N, heads, D].

    sliding_window: a token attends to that many tokens of its sequence, itself included; softcap: scores s become
    softcap tanh(s / softcap) (Gemma 2), for which no kernel is used: a sequence's scores are then in memory.
    Raises ValueError without a layout (the caller bypassed `learner.model.policy.Policy`), for a batch size other than
    1, a mask or dropout: it would ignore all of these.
    """
    if layout is None:
        raise ValueError(
            "packed attention got no Layout: the model's layers do not pass on its forward pass's arguments, or the "
            "caller bypassed learner.model.policy.Policy"
        )
    if query.shape[0] != 1 or query.shape[2] != layout.stop - layout.start:
        raise ValueError(f"packed attention needs one row with its Layout, got queries of shape {tuple(query.shape)}")
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes no mask and no dropout: set the model's attention_dropout to 0")
    rows, window = layout, sliding_window if sliding_window is not None and layout.longest > sliding_window else None

    def whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, N, heads, D] -> the same, all tokens of the row."""
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and softcap is None:
            return _flash(query[0], key[0], value[0], rows, scaling, window)[None]
        return _bucketed(query[0], key[0], value[0], rows, scaling, window, softcap)[None]

    states = [one.transpose(1, 2) for one in (query, key, value)]  # [1, n, heads, D]
    if layout.exchange is None:
        return whole(*states), None
    if states[1].shape[2] % layout.parts:  # too few key heads to divide: repeat them to the number of query heads
        times = states[0].shape[2] // states[1].shape[2]
        states[1:] = [one.repeat_interleave(times, dim=2) for one in states[1:]]
    return layout.exchange(whole, *states), None


def _bucketed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """[n, heads, D] each, of the computed tokens -> the same: one causal sdpa call for sequences of similar length."""
    parts, places = [], []
    for index, valid in layout.buckets:
        q, k, v = (_gathered(states, index) for states in (query, key, value))  # [B, heads, L, D]
        width = index.shape[1]
        if softcap is not None:
            out = _capped(q, k, v, layout.seen(width, window), scaling, softcap)
        else:
            seen = layout.seen(width, window) if window is not None and width > window else None
            out = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        parts.append(out.transpose(1, 2)[valid])  # [tokens, heads, D]
        places.append(index[valid])
    return torch.empty_like(query).index_copy(0, torch.cat(places), torch.cat(parts))


def _capped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scaling: float | None, softcap: float) -> Tensor:
    """[B, heads, L, D], keys and values with as many heads or fewer -> [B, heads, L, D], in float32 inside."""
    k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], dim=1) for one in (k, v))
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(-1, -2)).to(wide) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def _gathered(states: Tensor, index: Tensor) -> Tensor:
    """[n, heads, D], i64[B, L] -> [B, heads, L, D], by index_select, whose gradient sums in a fixed order."""
    return states.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None
) -> Tensor:
    """[n, heads, D] each, of the computed tokens -> the same: flash attention over boundaries, causal within each."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest, back = layout.boundaries, layout.longest, -1 if window is None else window - 1
    if layout.place is not None:
        query, key, value = (states.index_select(0, layout.place) for states in (query, key, value))
    grouped: dict[str, Any] = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 has no such argument, and needs none
        grouped["enable_gqa"] = query.shape[1] != key.shape[1]
    out = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(back, 0), **grouped
    )  # fmt: skip
    assert isinstance(out, Tensor)  # without its log-sum-exp, which was not asked for
    return out if layout.computed is None else out.index_select(0, layout.computed)


def register(compiled: bool = False) -> None:
    """Make `attn_implementation="packed"` known to transformers (idempotent). compiled: layers that torch.compile
    compiles leave it out, from now on: its shapes differ from row to row."""
    from transformers import AttentionInterface

    if compiled:
        AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    elif NAME not in AttentionInterface():
        AttentionInterface.register(NAME, packed_attention)


def choose_flash_attention(wanted: FlashAttention) -> str:
    """Activate flash attention 3 on this process's GPU if it is wanted and there. Returns a line that says which is
    used, and why. BadInput for fa3 where it cannot be."""
    from torch.nn.attention import activate_flash_attention_impl

    if wanted is FlashAttention.fa2:
        return "flash attention 2 (learner.flash_attention=fa2)"
    major, minor = torch.cuda.get_device_capability()
    missing = ""
    if major != 9:
        missing = f"it needs compute capability 9, this GPU has {major}.{minor}"
    elif importlib.util.find_spec(FA3_MODULE) is None:
        missing = f"no package has the module {FA3_MODULE}: install flash_attn_3"
    if not missing:
        activate_flash_attention_impl("FA3")
        return "flash attention 3"
    if wanted is FlashAttention.fa3:
        raise BadInput(f"learner.flash_attention=fa3: {missing}")
    return f"flash attention 2; not 3: {missing}"
