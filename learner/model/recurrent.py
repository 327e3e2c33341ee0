"""Layers with a state along the sequence, in packed rows: each sequence goes through them by itself.

In: a causal language model with gated delta nets (Qwen3.5, Qwen3-Next), short convolutions (LFM2) or Mamba 2, as
transformers has them. Out: the same model; given a `Layout`, such a layer gets the row's sequences as batches of
similar length, padded at their ends, which nothing before them sees. transformers takes a packed row's boundaries only
for kernels of further packages (`seq_idx`, `cu_seq_lens_q`); its own code ignores them. A prompt shared by siblings
goes through such a layer once for each of them, as through attention. Must not know: configurations, losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learner.model.attention import Layout

LAYERS = {"Qwen3_5GatedDeltaNet", "Qwen3NextGatedDeltaNet", "Lfm2ShortConv", "Mamba2Mixer"}


def separate(causal_lm: nn.Module) -> None:
    """Make every such layer of the model take packed rows."""
    for block in causal_lm.modules():
        for mixer in block.children():
            if type(mixer).__name__ in LAYERS:
                separated = _Separated(mixer.forward)
                mixer.forward = separated
                block.register_forward_pre_hook(separated.entered, with_kwargs=True)
                mixer.register_forward_pre_hook(_positional, with_kwargs=True)


def _positional(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Backward hooks (ZeRO-3's) wait for the gradients of positional arguments alone."""
    rest = {name: value for name, value in given.items() if name != "hidden_states"}
    return args or (given["hidden_states"],), rest


class _Separated:
    """A layer's forward pass. The layout comes from the block around it: not all blocks pass it on, and a block that is
    recomputed for the gradient must see the same one again."""

    def __init__(self, forward: Callable[..., Tensor]):
        self.forward = forward
        self.layout: Layout | None = None

    def entered(self, _: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.layout = given.get("layout")

    def __call__(self, hidden_states: Tensor, **given: Any) -> Tensor:
        """[1, n, H], the row's computed tokens -> [1, n, H]. Without a layout: as transformers does it."""
        if self.layout is None:
            return self.forward(hidden_states=hidden_states, **given)
        if self.layout.parts > 1:
            raise ValueError("recurrent layers need whole sequences: set learner.sequence_parallel=1")
        given.pop("layout", None)
        states, parts, places = hidden_states[0], [], []
        for index, valid in self.layout.buckets:
            batch = states.index_select(0, index.flatten()).unflatten(0, index.shape)  # [B, L, H]
            parts.append(self.forward(hidden_states=batch, **given)[valid])  # [tokens, H]
            places.append(index[valid])
        return torch.empty_like(states).index_copy(0, torch.cat(places), torch.cat(parts))[None]
