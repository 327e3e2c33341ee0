"""A rank's part of a checkpoint on the disk: written at once, or copied and written by a thread beside training.

In: named 1-D tensors. Out: a safetensors file, its size and SHA-256. Must not know: what the tensors are, other ranks.

The digest is of the bytes that were handed to the disk, taken while they are: nobody reads the file for it, and what a
disk changes is found when the checkpoint is read. Writing and hashing release Python's lock.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.written import SaveLost, Written

PIECE = 1 << 24  # bytes that are hashed and written at a time


@dataclass(frozen=True, slots=True)
class Content:
    """Of a file."""

    name: str
    tensors: Mapping[str, Tensor]  # f32[n] each
    said: Mapping[str, str]  # besides


def write(folder: Path, content: Content) -> Written:
    """A safetensors file, on the disk when this returns; one tensor at a time is brought to the host."""
    header: dict[str, object] = {"__metadata__": dict(content.said)}
    place = 0
    for key, values in content.tensors.items():
        end = place + 4 * values.numel()
        header[key] = {"dtype": "F32", "shape": [values.numel()], "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    size, digest = 0, hashlib.sha256()
    with (folder / content.name).open("wb") as file:
        for piece in chain([len(text).to_bytes(8, "little"), text], _pieces(content.tensors.values())):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {content.name: (size, digest.hexdigest())}


def _pieces(tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    for values in tensors:
        if values.numel():
            array: Any = values.detach().to("cpu", torch.float32).contiguous().numpy()
            data = memoryview(array).cast("B")
            yield from (data[first : first + PIECE] for first in range(0, len(data), PIECE))


class Saver:
    """One save at a time of one rank."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saving")
        self._copy: Tensor | None = None  # kept for the next save: its pages are there then
        self._written: Future[Written] | None = None

    def begin(self, folder: Path, content: Content | None) -> None:
        """Copy the tensors, which may change when this returns, and have them written. None: there is no file."""
        if self._written is not None:
            wait([self._written])  # nobody did, and this copy comes to the same place
        self._written = Future()
        if content is None:
            self._written.set_result({})
        else:
            self._written = self._thread.submit(write, folder, self._copied(content))

    def written(self, whole: bool) -> Written | None:
        """What `begin` has written; None: it is still being written (never with `whole`, which waits for it). Raises
        what kept it from being written, and SaveLost where nothing was begun."""
        if self._written is None:
            raise SaveLost("the learner's ranks were started anew while they wrote it")
        return self._written.result() if whole or self._written.done() else None

    def _copied(self, content: Content) -> Content:
        sizes = [values.numel() for values in content.tensors.values()]
        on_gpu = any(values.is_cuda for values in content.tensors.values())
        if self._copy is None or self._copy.numel() != sum(sizes):
            self._copy = None
            self._copy = torch.empty(sum(sizes), dtype=torch.float32, device="cpu", pin_memory=on_gpu)
        copies = dict(zip(content.tensors, self._copy.split(sizes), strict=True))
        for key, values in content.tensors.items():
            copies[key].copy_(values.detach(), non_blocking=on_gpu)
        if on_gpu:
            torch.cuda.synchronize()
        return replace(content, tensors=copies)
