"""How the bytes of weights move between a learner rank and a sampler: both sides of each wire, in one place.

In: named tensors on one side. Out: the same on the other. On GPUs these are vLLM's own packed NCCL broadcast and packed
CUDA IPC; on CPUs gloo and a memory file of the sending process stand where they do, with the same buckets and the same
calls. At most two buckets (or one tensor, if it is larger) exist besides the weights themselves. Must not know: who
asks, what a version is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rollout.weight_sync.broadcast_group import Gloo
from rollout.weight_sync.weights import aligned, buckets, dtype_name

Named = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a wire carries, in order. The receiver sizes its buffers by it."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(named: Named) -> Manifest:
        rows = [(name, dtype_name(tensor), tuple(tensor.shape)) for name, tensor in named]
        return Manifest(*(tuple(column) for column in zip(*rows, strict=True)))

    def sizes(self) -> list[int]:
        """Bytes of each."""
        return [
            torch.Size(shape).numel() * getattr(torch, dtype).itemsize
            for dtype, shape in zip(self.dtypes, self.shapes, strict=True)
        ]


def checked(named: Named, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
    """The tensors, each compared with its row: a stream that differs would hang the receiver or fill it with noise."""
    sent = 0
    for name, tensor in named:
        mine = (name, dtype_name(tensor), tuple(tensor.shape))
        known = sent < len(manifest.names)
        row = (manifest.names[sent], manifest.dtypes[sent], manifest.shapes[sent]) if known else None
        if mine != row:
            raise ValueError(f"the weights are not those of their manifest: entry {sent} is {mine}, it says {row}")
        sent += 1
        yield name, tensor
    if sent != len(manifest.names):
        raise ValueError(f"the weights end after {sent} of {len(manifest.names)} entries of their manifest")


# ---------------------------------------------------------------------- broadcast (NCCL, gloo)


def broadcast(group: Any, named: Named, bucket: int) -> None:
    """Send all tensors to the group, in packed buckets."""
    if isinstance(group, Gloo):
        for part in buckets(named, lambda item: item[1].numel() * item[1].element_size(), bucket):
            group.broadcast(torch.cat([_flat(tensor) for _, tensor in part]))
        return
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    torch.cuda.synchronize()  # it reads on streams of its own
    packed_nccl_broadcast_producer(iter(named), group, 0, lambda item: item[1], bucket)


def receive(
    group: Any, manifest: Manifest, bucket: int, device: torch.device, load: Callable[[list[tuple[str, Tensor]]], Any]
) -> None:
    """Take what `broadcast` sends; `load` is given the tensors of one bucket at a time, and may keep them."""
    rows = list(zip(manifest.names, manifest.dtypes, manifest.shapes, manifest.sizes(), strict=True))
    if isinstance(group, Gloo):
        for part in buckets(rows, lambda row: row[3], bucket):
            flat = torch.empty(sum(size for *_, size in part), dtype=torch.uint8)
            group.broadcast(flat)
            load(list(_unpacked(flat, [row[3] for row in part], part)))
        return
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_consumer

    announced = ((name, (list(shape), getattr(torch, dtype))) for name, dtype, shape, _ in rows)
    packed_nccl_broadcast_consumer(announced, group, 0, load, bucket, device=device)


# ---------------------------------------------------------------------- shared memory (CUDA IPC, memory file)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What lies in the sender's buffer right now."""

    manifest: Manifest
    sizes: tuple[int, ...]  # bytes that each takes in the buffer
    handles: dict[str, tuple[Any, ...]]  # device ("cpu", or a GPU's UUID) -> how to map the buffer


class Outbox:
    """The sending side: one buffer that others map, filled again and again, kept from one push to the next."""

    def __init__(self, device: torch.device, capacity: int):
        """capacity: bytes; the largest tensor must fit."""
        self.device, self.capacity = device, capacity
        if device.type == "cpu":
            self._file = os.memfd_create("thinkless-weights")  # gone with the process, whatever ends it
            os.ftruncate(self._file, capacity)
            self._memory = _mapped(self._file, capacity)
            self._buffer = torch.frombuffer(self._memory, dtype=torch.uint8)

    @property
    def name(self) -> str:
        return device_name(self.device)

    def chunks(self, named: Named) -> Iterator[Chunk]:
        """Fills the buffer and yields; ask for the next only when all receivers have taken this one."""
        if self.device.type == "cpu":
            yield from self._cpu_chunks(named)
            return
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        for packed in packed_ipc_producer(iter(named), self.name, lambda item: item[1], self.capacity):
            shapes = tuple(tuple(shape) for shape in packed.shapes)
            manifest = Manifest(tuple(packed.names), tuple(packed.dtype_names), shapes)
            yield Chunk(manifest, tuple(packed.tensor_sizes), packed.ipc_handle)

    def release(self) -> None:
        """At the end of a push, once every receiver has closed its `Inbox`: a GPU's buffer is free only then."""
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()

    def close(self) -> None:
        if self.device.type == "cpu":
            os.close(self._file)

    def _cpu_chunks(self, named: Named) -> Iterator[Chunk]:
        handle = (os.getpid(), self._file, self.capacity)
        for part in buckets(named, lambda item: aligned(item[1].numel() * item[1].element_size()), self.capacity):
            sizes, end = [], 0
            for _, tensor in part:
                flat = _flat(tensor)
                self._buffer[end : end + len(flat)] = flat
                sizes.append(aligned(len(flat)))
                end += sizes[-1]
            yield Chunk(Manifest.of(part), tuple(sizes), {"cpu": handle})


class Inbox:
    """The receiving side: maps a sender's buffer once for each of its pushes."""

    def __init__(self, device: torch.device):
        self.device = device
        self._known: tuple[Any, ...] | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._importer: Any = None

    def take(self, chunk: Chunk) -> list[tuple[str, Tensor]]:
        """Copies of the tensors in the sender's buffer, which is filled anew afterwards."""
        handle = chunk.handles[device_name(self.device)]
        if self.device.type == "cpu":
            self._map(handle)
            rows = zip(chunk.manifest.names, chunk.manifest.dtypes, chunk.manifest.shapes, strict=True)
            return list(_unpacked(self._buffer[: sum(chunk.sizes)].clone(), chunk.sizes, rows))
        from vllm.distributed.weight_transfer.packed_tensor import PackedBufferImporter, packed_ipc_consumer

        self._importer = self._importer or PackedBufferImporter()
        manifest = chunk.manifest
        taken = packed_ipc_consumer(
            chunk.handles,
            list(manifest.names),
            [list(shape) for shape in manifest.shapes],
            list(manifest.dtypes),
            list(chunk.sizes),
            self.device.index or 0,
            self._importer,
        )
        torch.cuda.synchronize()  # the copies are made before the sender is told so
        return taken

    def close(self) -> None:
        """At the end of a push: let go of the sender's buffer, which on a GPU stays taken otherwise."""
        if self._importer is not None:
            self._importer.close()
        self._known, self._buffer = None, torch.empty(0, dtype=torch.uint8)

    def _map(self, handle: tuple[Any, ...]) -> None:
        if handle == self._known:
            return
        pid, number, size = handle
        try:
            file = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
        except OSError as error:
            raise ConnectionError(
                f"the learner's memory cannot be reached from here ({error}): cluster.transport=ipc needs sampler and "
                "learner on one host, under one user; across hosts choose object_store"
            ) from error
        try:
            self._buffer = torch.frombuffer(_mapped(file, size), dtype=torch.uint8)
        finally:
            os.close(file)
        self._known = handle


def device_name(device: torch.device) -> str:
    """A GPU's UUID, the same in every process that sees it; or "cpu"."""
    return "cpu" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)


def _mapped(file: int, size: int) -> mmap.mmap:
    memory = mmap.mmap(file, size)
    with contextlib.suppress(OSError):  # a kernel without large pages for shared memory: small ones serve
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _unpacked(flat: Tensor, sizes: Iterable[int], rows: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    """rows: (name, dtype, shape, ...); sizes: bytes that each takes in `flat`."""
    start = 0
    for (name, dtype, shape, *_), size in zip(rows, sizes, strict=True):
        kind = getattr(torch, dtype)
        part = flat[start : start + torch.Size(shape).numel() * kind.itemsize]
        if part.data_ptr() % kind.itemsize:  # a packed bucket of several dtypes has no gaps
            part = part.clone()
        yield name, part.view(kind).view(shape)
        start += size
