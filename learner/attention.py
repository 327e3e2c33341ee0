"""Causal attention over packed sequences, registered with transformers under the name `packed`.

In: queries, keys and values of one row that holds several sequences, and the row's `Layout`. Out: the attention's
output, with nothing leaking between sequences. Sequences of similar length are padded into one causal sdpa call, so the
cost is that of per-sequence attention without its many small calls. Must not know: models, losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "packed"
PADDING = 1.3  # a bucket's longest sequence is at most this times its shortest


class Layout:
    """Where each sequence of a packed row lies, and how rows of similar length are padded together.

    lengths: tokens of each sequence, in row order. Built once for a micro-batch and used by every layer.
    """

    def __init__(self, lengths: list[int], device: torch.device | str = "cpu"):
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        self.total = starts[-1]
        self.buckets: list[tuple[Tensor, Tensor]] = []  # gather index i64[B, L], validity bool[B, L]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        while order:
            longest = max(int(lengths[order[0]] * PADDING), 8)
            members = [i for i in order if lengths[i] <= longest]
            order = order[len(members) :]
            width = lengths[members[-1]]
            first = torch.tensor([starts[i] for i in members])[:, None]
            size = torch.tensor([lengths[i] for i in members])[:, None]
            column = torch.arange(width)[None, :]
            self.buckets.append(((first + column.minimum(size - 1)).to(device), (column < size).to(device)))


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
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, N, D], key/value [1, kv_heads, N, D] -> [1, N, heads, D].

    Raises ValueError without a layout (a caller that bypassed `learner.model.Policy`), for another batch size than 1,
    a mask, dropout, or a sliding window shorter than a sequence: none of these would be honoured.
    """
    if layout is None or query.shape[0] != 1 or query.shape[2] != layout.total:
        raise ValueError(f"packed attention needs one row with its Layout, got queries of shape {tuple(query.shape)}")
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes no mask and no dropout: set the model's attention_dropout to 0")
    if sliding_window is not None and max(index.shape[1] for index, _ in layout.buckets) > sliding_window:
        raise ValueError(f"packed attention has no sliding window, and a sequence is longer than {sliding_window}")
    output = torch.empty_like(query[0].transpose(0, 1))  # [N, heads, D]
    parts, places = [], []
    for index, valid in layout.buckets:
        q, k, v = (states[0][:, index].transpose(0, 1) for states in (query, key, value))  # [B, heads, L, D]
        out = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(out.transpose(1, 2)[valid])  # [tokens, heads, D]
        places.append(index[valid])
    output = output.index_copy(0, torch.cat(places), torch.cat(parts))
    return output[None], None


def register() -> None:
    """Make `attn_implementation="packed"` known to transformers (idempotent)."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
