"""Rotary embeddings of vLLM's CPU engine, for models that pass queries and keys by head.

vLLM's CUDA kernel takes [tokens, heads, D] (vllm-project/vllm#12777); its CPU kernel (0.32) takes that for one head of
all tokens, and rotates wrongly without an error: LFM2 was sampled 5.8 nats beside transformers. Must not know: engines.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

_kernel: Any = RotaryEmbedding.forward_cpu


def _rotated(self: Any, positions: Tensor, query: Tensor, key: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Queries and keys [tokens, heads, D] or [tokens, heads * D] -> of the same shapes."""
    if query.dim() != 3 or query.shape[-1] != self.head_size:
        found: tuple[Tensor, Tensor | None] = _kernel(self, positions, query, key)
        return found
    flat_query, flat_key = _kernel(self, positions, query.flatten(1), None if key is None else key.flatten(1))
    return flat_query.view(query.shape), None if key is None else flat_key.view(key.shape)


def rotate_by_head() -> None:
    """From now on in this process (idempotent)."""
    RotaryEmbedding.forward_cpu = _rotated
