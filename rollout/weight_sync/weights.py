"""Weights on their way from the learner into the samplers: what is carried, what is offered, and by which transport.

In: named tensors. Out: `Weights` (the tensors themselves, which the object store copies once and shares between
processes), or an `Offer` (where to fetch them). How bytes move is in `rollout.weight_sync.transport`, how they enter
vLLM in `rollout.weight_sync.vllm_receiver`. Must not know: who trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from conf.schema import Config, Device, Placement, Transport

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64  # bytes
MIB = 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    name: str  # Hugging Face parameter name
    dtype: str  # torch's name without the module, e.g. "bfloat16"
    shape: tuple[int, ...]
    buffer: int  # which of the buffers
    offset: int  # bytes into it
    size: int  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of one version. Two entries may share bytes (tied embeddings are sent under both names).

    The buffers may be the learner's own memory: they are pickled out of band, so that the object store copies them
    once, before the learner does anything else. Whoever keeps them in the learner's process takes a `copy`.
    """

    version: int  # finished training steps
    entries: tuple[Entry, ...]
    buffers: tuple[np.ndarray, ...]  # u8[bytes] each

    @property
    def size(self) -> int:
        """Bytes, those of aliases not counted."""
        return sum(len(buffer) for buffer in self.buffers)

    @property
    def aliases(self) -> dict[str, str]:
        """Names of entries that share an earlier one's bytes, and that one's name."""
        first: dict[tuple[int, int, tuple[int, ...]], str] = {}
        found = {one.name: first.setdefault((one.buffer, one.offset, one.shape), one.name) for one in self.entries}
        return {name: source for name, source in found.items() if name != source}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Named views of the buffers; copy them before the buffers go."""
        import warnings

        import torch

        with warnings.catch_warnings():  # the object store's memory is read-only, and nobody writes to these views
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = [torch.from_numpy(b) if len(b) else torch.empty(0, dtype=torch.uint8) for b in self.buffers]
        for entry in self.entries:
            part = flat[entry.buffer][entry.offset : entry.offset + entry.size]
            yield entry.name, part.view(getattr(torch, entry.dtype)).view(entry.shape)

    def copy(self) -> Weights:
        """The same in memory of its own."""
        return replace(self, buffers=tuple(buffer.copy() for buffer in self.buffers))


def views(named: Iterable[tuple[str, Tensor]], version: int, aliases: Mapping[str, str] | None = None) -> Weights:
    """The tensors' own memory (the CPU's), one buffer for each; only what is not contiguous is copied.

    aliases: further name -> name of the tensor that it shares. A tied model sends {"lm_head.weight":
    "model.embed_tokens.weight"}: vLLM keeps a packed copy of the head on the CPU, and one that is not sent stays as it
    was, silently. Raises KeyError for an alias of a tensor that is not there.
    """
    import torch

    entries: list[Entry] = []
    buffers: list[np.ndarray] = []
    for name, tensor in named:
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        entries.append(Entry(name, dtype_name(tensor), tuple(tensor.shape), len(buffers), 0, flat.numel()))
        buffers.append(flat.numpy())
    return Weights(version, with_aliases(entries, aliases or {}), tuple(buffers))


def with_aliases(entries: list[Entry], aliases: Mapping[str, str]) -> tuple[Entry, ...]:
    """The entries and, for each alias, one more with the bytes of the tensor that it shares."""
    by_name = {entry.name: entry for entry in entries}
    return (*entries, *(replace(by_name[name], name=alias) for alias, name in aliases.items()))


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def buckets(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive items in lists of at most `limit` bytes together; a larger item is alone in its list."""
    bucket: list[T] = []
    held = 0
    for item in items:
        if bucket and held + size(item) > limit:
            yield bucket
            bucket, held = [], 0
        bucket.append(item)
        held += size(item)
    if bucket:
        yield bucket


# ---------------------------------------------------------------------- transports


@dataclass(frozen=True, slots=True)
class Route:
    """How weights travel in a run."""

    transport: Transport  # never auto
    workers: int  # rollout workers that every push goes to
    parallel: int = 1  # GPUs of each of them
    timeout_s: float = 600.0  # of every wait, on both sides
    keep: bool = False  # ipc, nccl: leave a copy in the object store as well, for workers that start again
    deferred: bool = False  # which then have no engine before the learner leaves their GPUs, and decline until then

    def guests(self, rank: int, on_gpu: bool) -> list[str]:
        """The workers that learner rank `rank` sends to."""
        if self.transport is Transport.ipc and on_gpu:  # the one that sits on its GPU
            return [worker_name(rank // self.parallel)]
        return [worker_name(index) for index in range(self.workers)] if rank == 0 else []


def route(conf: Config) -> Route:
    """The route that a configuration asks for."""
    rollout, cluster = conf.rollout, conf.cluster
    return Route(
        transport(conf),
        rollout.workers,
        rollout.tensor_parallel,
        cluster.weight_sync_timeout_s,
        rollout.max_restarts > 0,
        rollout.max_restarts > 0 and cluster.placement is Placement.colocated,
    )


def transport(conf: Config) -> Transport:
    """cluster.transport, with `auto` decided.

    object_store where either side has no GPU or only a part of one, ipc where a sampler sits beside every learner rank
    (placement colocated), nccl between whole GPUs. ipc never leaves a GPU and so never a host; nccl crosses hosts that
    NCCL can connect, and where it cannot, object_store is to be chosen by hand.
    """
    chosen, rollout, learner = conf.cluster.transport, conf.rollout, conf.learner
    if chosen is not Transport.auto:
        return chosen
    if rollout.device is not Device.gpu or learner.device is not Device.gpu:
        return Transport.object_store
    if conf.cluster.placement is Placement.colocated:
        return Transport.ipc
    return Transport.nccl if rollout.num_gpus == 1 and learner.num_gpus == 1 else Transport.object_store


def worker_name(index: int) -> str:
    return f"rollout worker {index}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a learner rank hands out weights."""

    rank: int
    address: tuple[str, int]
    key: bytes  # whoever has it is let in
    device: str  # the rank's GPU (its UUID), or "cpu"


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation to fetch weights while the learner sends them."""

    version: int
    route: Route
    endpoints: tuple[Endpoint, ...]
    receiver: str = ""  # who it is given to, for both sides' messages
