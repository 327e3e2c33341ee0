"""Offloads a learner rank's tensors to host memory, so that a sampler may use the GPU, and reloads them.

In: the objects that hold the tensors. Out: the same tensors, without memory on the device while they are offloaded.
Must not know: what the tensors mean, who uses the device.

It works on torch's untyped storages, whatever ZeRO stage made them. Views and aliases (DeepSpeed keeps many: flat
groups, partitions, gradients) stay valid: each goes on pointing to its storage, which is emptied and filled again.

    offloader.offload("optimizer")   all but the policy's own weights: optimizer states, master weights, gradients,
                                     buckets, the frozen reference. Enough to publish.
    offloader.offload("all")         everything
    offloader.reload()               as it was, bit for bit

torch does not check: reading an emptied tensor ends a CPU process at once. So every use of the tensors calls `need`
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["optimizer", "all"]
LIBRARIES = ("torch", "deepspeed", "learner", "transformers", "peft")  # whose objects are searched for tensors


@dataclass(slots=True, eq=False)
class _Offloaded:
    storage: torch.UntypedStorage
    size: int  # bytes
    copy: Tensor | None  # u8[size] on the host; None: its content is not needed again


class TensorsOffloaded(RuntimeError):
    """A learner was used whose tensors are offloaded."""


class Offloader:
    """The tensors of one rank that live on `device`.

    policy: its parameters and buffers are the weights. holders: other objects that hold tensors, searched anew at each
    `offload`. scratch: returns tensors that hold nothing between two steps: their memory is freed, not copied.
    """

    def __init__(
        self,
        device: torch.device,
        policy: nn.Module,
        holders: Iterable[Any] = (),
        scratch: Callable[[], Iterable[Any]] = tuple,
    ):
        self.device, self.policy, self.holders, self.scratch = device, policy, [policy, *holders], scratch
        self._more: list[Callable[[], Any]] = []
        self.offloaded: Kind | None = None
        self._offloaded: dict[int, _Offloaded] = {}  # by the storage's address as an object
        self._spare: dict[int, list[Tensor]] = {}  # page-locked host memory to reuse, by size

    def also(self, holder: Callable[[], Any]) -> None:
        """Adds an object whose tensors are offloaded with "optimizer" and "all". holder: called at each `offload`."""
        self._more.append(holder)

    def _everything(self) -> Iterator[Tensor]:
        return _tensors([*self.holders, *(holder() for holder in self._more)])

    def offload(self, kind: Kind) -> int:
        """Offload exactly these: weights that are offloaded come back for "optimizer". Returns the bytes offloaded."""
        if kind not in ("optimizer", "all"):
            raise ValueError(f'kind must be "optimizer" or "all", got {kind!r}')
        _own([tensor for tensor in self._everything() if tensor.device.type == self.device.type])
        weights = _storages(_weights(self.policy), self.device)
        wanted = _storages(self._everything(), self.device)
        if kind == "optimizer":
            for key in weights:
                wanted.pop(key, None)
        empty = _storages(_tensors(self.scratch()), self.device)
        self.offloaded = kind  # also when what follows fails half-way: nothing may be used then
        self._synchronize()
        for key in [key for key in self._offloaded if key not in wanted and key in weights]:
            self._reload(key)
        for key, storage in wanted.items():
            if key not in self._offloaded and storage.nbytes():
                self._offload(key, storage, key not in empty)
        self._synchronize()
        for one in self._offloaded.values():
            if one.storage.nbytes():
                one.storage.resize_(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.bytes

    def reload(self) -> None:
        """Bring everything back; nothing happens when nothing is offloaded."""
        for key in list(self._offloaded):
            self._reload(key)
        self._synchronize()
        self.offloaded = None

    def need(self, what: Literal["weights", "everything"], who: str) -> None:
        """Raises TensorsOffloaded when `what` is offloaded."""
        if self.offloaded == "all" or (self.offloaded == "optimizer" and what == "everything"):
            raise TensorsOffloaded(
                f"{who} needs the learner's {what} while {'all of it' if self.offloaded == 'all' else 'its optimizer'} "
                "is offloaded to the host: call reload() first"
            )

    @property
    def bytes(self) -> int:
        """Bytes offloaded."""
        return sum(one.size for one in self._offloaded.values())

    def _offload(self, key: int, storage: torch.UntypedStorage, keep: bool) -> None:
        size, copy = storage.nbytes(), None
        if keep:
            spare = self._spare.get(size)
            copy = spare.pop() if spare else torch.empty(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            copy.copy_(_raw(storage), non_blocking=True)
        self._offloaded[key] = _Offloaded(storage, size, copy)

    def _reload(self, key: int) -> None:
        one = self._offloaded.pop(key)
        one.storage.resize_(one.size)
        if one.copy is not None:
            _raw(one.storage).copy_(one.copy, non_blocking=True)
            if self.device.type == "cuda":
                self._spare.setdefault(one.size, []).append(one.copy)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _own(tensors: list[Tensor]) -> None:
    """Move tensors that borrow their memory (from a mapped model file, on the CPU) to memory of torch's, which can be
    freed. Tensors that share memory go on sharing it."""
    owned: dict[int, Tensor] = {}
    for tensor in tensors:
        if tensor.layout is torch.strided and not (storage := tensor.untyped_storage()).resizable():
            if storage._cdata not in owned:
                owned[storage._cdata] = _raw(storage).clone()
            mine = torch.empty(0, dtype=tensor.dtype)
            mine.set_(owned[storage._cdata].untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
            tensor.data = mine


def _raw(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _storages(tensors: Iterable[Tensor], device: torch.device) -> dict[int, torch.UntypedStorage]:
    found = {}
    for tensor in tensors:
        if tensor.device.type == device.type and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage
    return found


def _weights(policy: nn.Module) -> Iterator[Tensor]:
    for tensor in (*policy.parameters(), *policy.buffers()):
        yield tensor.data
        partition = getattr(tensor, "ds_tensor", None)  # this rank's part under ZeRO-3
        if isinstance(partition, Tensor):
            yield partition


def _tensors(roots: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor that can be reached through containers and the attributes of these libraries' objects."""
    stack, seen = list(roots), {}
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, (str, bytes, int, float, type(None), type, Offloader)):
            continue
        seen[id(one)] = one  # kept: the address of an object that is gone may become another's
        if isinstance(one, Tensor):
            yield one
            if one.is_leaf and one.grad is not None:
                stack.append(one.grad)
            stack.extend(vars(one).values())
        elif isinstance(one, dict):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)) or type(one).__name__ in ("deque", "odict_values"):
            stack.extend(one)
        elif type(one).__module__.partition(".")[0] in LIBRARIES:
            stack.extend(getattr(one, "__dict__", {}).values())
            stack.extend(getattr(one, name) for name in getattr(type(one), "__slots__", ()) if hasattr(one, name))
