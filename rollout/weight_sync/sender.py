"""One learner rank's sending side: its weights as others know them, by whichever transport.

In: a rank's engine. Out: `Weights` for the object store; an endpoint that workers fetch them from while it sends.
Under ZeRO-3 weights are gathered bucket by bucket (`Engine.parameters`), under LoRA merged layer by layer; no transport
holds a second full model on a GPU. Must not know: objectives, batches, Ray.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from conf.schema import Transport
from rollout.base.network import free_ports
from rollout.weight_sync import broadcast_group, transport
from rollout.weight_sync.handshake import Connection, Listener
from rollout.weight_sync.weights import (
    MIB,
    Endpoint,
    Entry,
    Route,
    Weights,
    aligned,
    dtype_name,
    views,
    with_aliases,
)

Merge = Callable[[Iterator[tuple[str, Tensor]]], Iterator[tuple[str, Tensor]]]


class WeightSender:
    """Collective under ZeRO-3: every rank calls the same methods in the same order."""

    def __init__(self, rank: int, engine: Any, merge: Merge | None = None):
        """engine: a `learner.engine.Engine`. merge: what makes plain weights of parameters with adapters among them."""
        self.rank, self.engine, self.merge = rank, engine, merge
        self.gathered = engine.conf.zero_stage == 3
        self.bucket = max(int(engine.conf.weight_sync_bucket_mib * MIB), 1)
        tied = engine.policy.tied_name
        self.aliases = {} if tied is None else {f"{engine.policy.head_name}.weight": tied}
        self._manifest: transport.Manifest | None = None
        self._stage: StagingBuffer | None = None
        self._route: Route | None = None
        self._host: Listener | None = None
        self._outbox: transport.Outbox | None = None
        self._group: Any = None
        self._members: str | None = None  # the group's name, which its members give when they come

    def whole(self) -> Iterator[tuple[str, Tensor]]:
        """The weights as others know them: adapters merged in. Each is looked at before the next is asked for."""
        return self._merged(self.engine.parameters())

    @property
    def manifest(self) -> transport.Manifest:
        """Names, dtypes and shapes of `whole`, in its order; nothing is gathered for it."""
        if self._manifest is None:
            self._manifest = transport.Manifest.of(self._merged(self.engine.outlines()))
        return self._manifest

    def _merged(self, named: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        return self.merge(named) if self.merge else named

    # ------------------------------------------------------------------ the object store

    def weights(self, version: int) -> Weights | None:
        """All weights, on rank 0; the other ranks help to gather them.

        Where they lie in the CPU's memory as they are, no copy is made: the object store makes the only one. It does so
        before this rank does anything else, so that no later update is seen.
        """
        if self.rank != 0:
            self._help_to_gather()
            return None
        if not self.gathered and self.merge is None and self.engine.device.type == "cpu":
            return views(self.whole(), version, self.aliases)
        stage = self._staged()
        for name, tensor in self.whole():
            stage.put(name, tensor)
        return stage.weights(version, self.aliases)

    def _help_to_gather(self) -> None:
        if self.gathered:
            for _ in self.whole():
                pass

    def _staged(self) -> StagingBuffer:
        if self._stage is None:
            total = sum(aligned(size) for size in self.manifest.sizes())
            self._stage = StagingBuffer(min(self.bucket, total), page_locked=self.engine.device.type == "cuda")
        self._stage.begin()
        return self._stage

    # ------------------------------------------------------------------ ipc and nccl

    def open(self, route: Route, address: str) -> Endpoint:
        """Listen for workers, for all pushes of the run. address: of this host."""
        me = f"learner rank {self.rank}"
        self._route, self._host = route, Listener(me, address, transport.device_name(self.engine.device), self.rank)
        return self._host.endpoint

    def close(self) -> None:
        for each in (self._host, self._outbox):
            if each is not None:
                each.close()
        if self._group is not None:
            self._group.destroy()

    def send(self, version: int) -> Weights | None:
        """Send to this rank's guests, who must come for it meanwhile; returns when all have taken everything.

        With `route.keep`, rank 0 returns a copy for the object store besides; with `route.deferred`, a worker that dies
        meanwhile is none of its guests any more. Raises TimeoutError or ConnectionError that name the worker.
        """
        assert self._route is not None and self._host is not None, "`open` has not been called"
        guests = self._route.guests(self.rank, self.engine.device.type == "cuda")
        stage = self._staged() if self._route.keep and self.rank == 0 else None
        if not guests:
            self._help_to_gather()
            return None
        with contextlib.ExitStack() as leaving:
            lines = self._host.receive(guests, version, self._route.timeout_s)
            for line in lines:
                leaving.callback(line.close)
            if self._route.transport is Transport.nccl:
                self._broadcast(lines, version, stage)
            else:
                self._hand_out(lines, version, stage)
        return stage.weights(version, self.aliases) if stage is not None else None

    def _announced(self, stage: StagingBuffer | None) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in transport.checked(self.whole(), self.manifest):
            if stage is not None:
                stage.put(name, tensor)
            yield name, tensor

    def _hand_out(self, lines: list[Connection], version: int, stage: StagingBuffer | None) -> None:
        if self._outbox is None:
            sizes = [aligned(size) for size in self.manifest.sizes()]
            self._outbox = transport.Outbox(self.engine.device, max(min(self.bucket, sum(sizes)), *sizes))
        for chunk in self._outbox.chunks(self._announced(stage)):
            self._tell(lines, "chunk", (chunk, self.aliases))
            self._hear(lines, f"to take its share of the weights of version {version}")
        self._tell(lines, "end")
        self._hear(lines, f"to load the weights of version {version}")  # and it has let go of the buffer
        self._outbox.release()

    def _tell(self, lines: list[Connection], kind: str, content: Any = None) -> None:
        for line in list(lines):
            with self._without_the_lost(lines, line):
                line.send(kind, content)

    def _hear(self, lines: list[Connection], what: str) -> None:
        for line in list(lines):
            with self._without_the_lost(lines, line):
                line.receive(what)

    @contextlib.contextmanager
    def _without_the_lost(self, lines: list[Connection], line: Connection) -> Iterator[None]:
        """A worker that hangs up is taken off `lines` where one that died fetches a copy when it starts again; another
        one's error ends the push in its own answer."""
        assert self._route is not None
        try:
            yield
        except ConnectionError:
            if not self._route.deferred:
                raise
            lines.remove(line)

    def _broadcast(self, lines: list[Connection], version: int, stage: StagingBuffer | None) -> None:
        assert self._route is not None and self._host is not None
        seconds = self._route.timeout_s
        peers = ", ".join(line.peer for line in lines)
        message = (
            f"learner rank {self.rank} timed out after {seconds:g} s waiting for {peers} to take part in the "
            f"broadcast of version {version}"
        )
        try:
            if self._members is None or any(line.hello["group"] != self._members for line in lines):
                self._form_group(lines, message)
            for line in lines:
                line.send("go", {"manifest": self.manifest, "bucket": self.bucket, "aliases": self.aliases})
            with broadcast_group.bounded(seconds, self._group.destroy, message):
                transport.broadcast(self._group, self._announced(stage), self.bucket)
            for line in lines:
                line.receive(f"to load the weights of version {version}")
        except BaseException:
            self._members = self._group = None  # some may be in the midst of it: the next push forms a new group
            raise

    def _form_group(self, lines: list[Connection], message: str) -> None:
        """Of this rank and all processes of all engines. A worker that started again is in no group yet."""
        if self._group is not None:
            self._group.destroy()
        assert self._route is not None and self._host is not None
        world = 1 + sum(line.hello["processes"] for line in lines)
        address, seconds = self._host.endpoint.address[0], self._route.timeout_s
        (port,) = free_ports(1, address)
        name, rank = secrets.token_hex(8), 1
        for line in lines:
            joining = {"address": address, "port": port, "rank": rank, "world": world, "timeout_s": seconds}
            line.send("join", (name, joining))
            rank += line.hello["processes"]

        def still_there() -> None:
            for line in lines:
                line.refuse_closed("to join the broadcast group")

        self._group = broadcast_group.join(self.engine.device, address, port, 0, world, seconds, message, still_there)
        self._members = name


class StagingBuffer:
    """Host memory that weights are copied into; kept from one push to the next, because new pages cost more than the
    copy. Page-locked where a GPU copies into it."""

    def __init__(self, bucket: int, page_locked: bool):
        """bucket: bytes of each buffer; a larger tensor has a buffer of its own."""
        self.bucket, self.page_locked = bucket, page_locked
        self.buffers: list[Tensor] = []
        self.begin()

    def begin(self) -> None:
        """Start to fill it anew: what `weights` gave is overwritten."""
        self.entries: list[Entry] = []
        self.at, self.end = 0, 0  # buffer, bytes used of it

    def put(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.end and self.end + size > self.bucket:
            self.at, self.end = self.at + 1, 0
        if self.at == len(self.buffers):
            room = max(size, self.bucket)
            self.buffers.append(torch.empty(room, dtype=torch.uint8, pin_memory=self.page_locked))
        target = self.buffers[self.at][self.end : self.end + size]
        target.view(tensor.dtype).view(tensor.shape).copy_(tensor.detach(), non_blocking=self.page_locked)
        self.entries.append(Entry(name, dtype_name(tensor), tuple(tensor.shape), self.at, self.end, size))
        self.end += aligned(size)

    def weights(self, version: int, aliases: dict[str, str]) -> Weights:
        """What was put, in this memory."""
        if self.page_locked:
            torch.cuda.current_stream().synchronize()
        used = [0] * len(self.buffers)
        for entry in self.entries:
            used[entry.buffer] = entry.offset + entry.size
        arrays = tuple(buffer[:end].numpy() for buffer, end in zip(self.buffers, used, strict=True))
        return Weights(version, with_aliases(self.entries, aliases), arrays)
