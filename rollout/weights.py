"""Weights on their way from the learner into the sampler: one flat buffer and a manifest.

In: named tensors. Out: `Weights`, which the object store shares between processes without a copy, and named views of
it. The port by which weights enter (`rollout.engine.SharedMemoryPort`) belongs to the receiver. Must not know: who
trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    name: str  # Hugging Face parameter name
    dtype: str  # torch's name without the module, e.g. "bfloat16"
    shape: tuple[int, ...]
    offset: int  # bytes into the buffer
    size: int  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of one version. Two entries may share bytes (tied embeddings are sent under both names)."""

    version: int  # finished training steps
    entries: tuple[Entry, ...]
    buffer: np.ndarray  # u8[bytes]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Named views of the buffer; copy them before the buffer goes."""
        import warnings

        import torch

        with warnings.catch_warnings():  # the object store's memory is read-only, and nobody writes to these views
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(self.buffer)
        for entry in self.entries:
            part = flat[entry.offset : entry.offset + entry.size]
            yield entry.name, part.view(getattr(torch, entry.dtype)).view(entry.shape)


def flatten(named: Iterable[tuple[str, Tensor]], version: int, aliases: dict[str, str] | None = None) -> Weights:
    """Copy tensors into one buffer. aliases: further name -> name of the tensor that it shares.

    Example: a tied model sends {"lm_head.weight": "model.embed_tokens.weight"}: vLLM keeps a packed copy of the head on
    the CPU, and one that is not sent stays as it was, silently.
    """
    import torch

    tensors = [(name, tensor.detach()) for name, tensor in named]
    entries, end = [], 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        entries.append(Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end, size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    flat = torch.empty(end, dtype=torch.uint8)
    for entry, (_, tensor) in zip(entries, tensors, strict=True):
        flat[entry.offset : entry.offset + entry.size].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    by_name = {entry.name: entry for entry in entries}
    for alias, name in (aliases or {}).items():
        source = by_name[name]
        entries.append(Entry(alias, source.dtype, source.shape, source.offset, source.size))
    return Weights(version, tuple(entries), flat.numpy())
