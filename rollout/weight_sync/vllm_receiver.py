"""How weights enter vLLM: a weight-transfer backend of ours, and the receiving side of every transport.

In: `Weights`, or an `Offer` to fetch them. Out: an engine with these weights, loaded layer by layer in checkpoint
format (on the CPU with vLLM's repacking). This file imports vLLM and is imported when an engine starts. Must not know:
requests, prefix caches, Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from conf.schema import Transport
from rollout.base.errors import BadInput, in_one_line
from rollout.vllm_rotary import rotate_by_head
from rollout.weight_sync import broadcast_group, transport
from rollout.weight_sync.handshake import Connection, connect
from rollout.weight_sync.weights import MIB, Offer, Weights, aligned

BACKEND = "thinkless"
BUCKET = 256 * MIB  # bytes that a tensor-parallel engine's processes take at a time


def register() -> None:
    """Make our backend known to vLLM in this process (once)."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ThinklessTransferEngine)


class WorkerExtension:
    """`worker_extension_cls` of a tensor-parallel engine: its import makes the backend known in vLLM's processes, and
    their rotary embeddings right."""


@dataclass
class InitInfo(WeightTransferInitInfo):
    """The broadcast group to join; world 0: none. rank: of this engine's first process in it."""

    address: str = ""
    port: int = 0
    rank: int = 0
    world: int = 0
    timeout_s: float = 0.0
    message: str = ""  # for when it takes longer


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One of: all weights; what lies in learner ranks' buffers; an announcement of a broadcast; nothing, at the end:
    was it all?"""

    weights: Weights | None = None
    chunks: tuple[transport.Chunk, ...] = ()
    manifest: transport.Manifest | None = None
    bucket: int = 0  # bytes, of a broadcast
    timeout_s: float = 0.0  # of a broadcast
    message: str = ""  # for when it takes longer
    aliases: Mapping[str, str] | None = None


class ThinklessTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """The backend, in every process of an engine. Sends on checkpoint-format tensors, whichever way they came."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self.model: Any
        self.group: Any = None
        self.inbox = transport.Inbox(self.device)
        self.host = transport.Inbox(torch.device("cpu"))

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        if self.group is not None:
            self.group.destroy()
            self.group = None
        if init_info.world:
            mine = init_info.rank + self.parallel_config.rank
            self.group = broadcast_group.join(
                self.device,
                init_info.address,
                init_info.port,
                mine,
                init_info.world,
                init_info.timeout_s,
                init_info.message,
            )

    def start_weight_update(self) -> None:
        if any(isinstance(layer, RoutedExperts) for layer in self.model.modules()):
            # transformers keeps a layer's experts in one tensor each; vLLM counts all of it as come, and samples noise
            raise BadInput("weights of mixture-of-experts models cannot be pushed to the sampler; see docs/learner.md")
        for layer in self.model.modules():  # what is left of a push that ended half-way
            info = get_layerwise_info(layer)
            info.load_numel, info.loaded_weights = 0, []
        self.inbox.close()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def load(self, named: Iterable[tuple[str, Tensor]], aliases: Collection[str] = ()) -> None:
        """BadInput for a name or a shape that vLLM's model has not; but those of `aliases` that it has not are left
        out: it may use the embedding itself as a tied head (Gemma 2)."""
        lacking = {alias for alias in aliases if not self._has(alias.rpartition(".")[0])}
        try:
            self.model.load_weights(one for one in named if one[0] not in lacking)
        except (LookupError, ValueError, RuntimeError) as error:
            what = f"the sampler's {type(self.model).__name__} cannot take the learner's weights"
            raise BadInput(
                f"{what} ({in_one_line(error, 300)}): vLLM has this model under other names or shapes; docs/learner.md "
                "lists what can be trained"
            ) from error

    def _has(self, layer: str) -> bool:
        """Whether vLLM's model has a layer of that name, maybe below another module."""
        return any(f".{name}".endswith(f".{layer}") for name, _ in self.model.named_modules())

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if update_info.weights is not None:
            self.load(update_info.weights.tensors(), update_info.weights.aliases)
        elif update_info.manifest is not None:
            self._take_broadcast(update_info, update_info.manifest)
        elif update_info.chunks:
            mine = transport.device_name(self.device)
            chunks = [chunk for chunk in update_info.chunks if mine in chunk.handles]
            inbox = self.inbox if chunks else self.host  # `Weights` for several processes lie in a memory file
            (chunk,) = chunks or update_info.chunks
            aliases = update_info.aliases or {}
            self.load(with_aliases(inbox.take(chunk), aliases), aliases)
        elif lacking := incomplete(self.model):
            raise ValueError(f"the weights that came are not the whole model's: only {'; '.join(lacking)}")

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self.inbox.close()

    def shutdown(self) -> None:
        self.inbox.close()
        if self.group is not None:
            self.group.destroy()

    def _take_broadcast(self, update: UpdateInfo, manifest: transport.Manifest) -> None:
        aliases = update.aliases or {}

        def load(named: list[tuple[str, Tensor]]) -> None:
            self.load(with_aliases(named, aliases), aliases)

        with broadcast_group.bounded(update.timeout_s, self.group.destroy, update.message):
            transport.receive(self.group, manifest, update.bucket, self.device, load)


def incomplete(model: Any) -> list[str]:
    """What has not come, told before a reload is finalized. vLLM itself would say nothing: a layer for which nothing
    came keeps its old weights, and one that lacks a part (a joint projection without keys) gets what memory held.
    """
    found = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        wanted = sum(getattr(p, "weight_loader_numel", p.numel()) for p in layer.parameters(recurse=False))
        padded = isinstance(layer, VocabParallelEmbedding) and info.load_numel  # its further rows are nobody's
        if info.can_load() and info.load_numel < wanted and not padded:
            found.append(f"{info.load_numel:,} of {wanted:,} elements of {name}")
    return found


def with_aliases(named: Iterable[tuple[str, Tensor]], aliases: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, and each that has further names under these as well."""
    for name, tensor in named:
        yield name, tensor
        for alias, source in aliases.items():
            if source == name:
                yield alias, tensor


class Receiver:
    """One engine's receiving side. Called between two steps of the engine."""

    def __init__(self, engine: Any):
        """engine: a vLLM `LLMEngine` whose weight_transfer_config names `BACKEND`."""
        self.engine = engine
        self.processes = engine.vllm_config.parallel_config.world_size
        self._group: str | None = None  # the broadcast group that this engine is in
        self._outbox: transport.Outbox | None = None  # for this engine's other processes
        self.received = 0  # bytes of weights so far, those of aliases not counted
        self.whole = True  # False: a load failed half-way, and the engine has no weights until one succeeds
        self._call("init_weight_transfer_engine", {})

    def load(self, offer: Weights | Offer) -> None:
        """Replace all weights. Raises TimeoutError or ConnectionError that name both sides when they do not come,
        ValueError when they are not all of the model's. The old ones are still whole if nothing came; if only a part
        did, the engine is of no use before the next whole push."""
        if isinstance(offer, Weights):
            self._call("start_weight_update")
            if self.processes == 1:
                self._call("update_weights", {"weights": offer})
            else:
                self._spread(offer)
            self._finish()
            self.received += offer.size
        elif offer.route.transport is Transport.nccl:
            self._from_broadcast(offer)
        else:
            self._from_buffers(offer)

    def _spread(self, weights: Weights) -> None:
        """To all processes of a tensor-parallel engine: one copy that they all map, instead of one pickled for each."""
        room = max(BUCKET, max((aligned(entry.size) for entry in weights.entries), default=0))
        if self._outbox is None or self._outbox.capacity < room:
            if self._outbox is not None:
                self._outbox.close()
            self._outbox = transport.Outbox(torch.device("cpu"), room)
        aliases = weights.aliases
        once = ((name, tensor) for name, tensor in weights.tensors() if name not in aliases)
        for chunk in self._outbox.chunks(once):
            self._call("update_weights", {"chunks": (chunk,), "aliases": aliases})

    def _from_buffers(self, offer: Offer) -> None:
        """ipc: the learner rank on each of this engine's devices has a buffer, and fills it again and again."""
        devices = self.engine.collective_rpc(_device_name)
        endpoints = {endpoint.device: endpoint for endpoint in offer.endpoints}
        if strangers := [device for device in devices if device not in endpoints]:
            raise ConnectionError(
                f"{offer.receiver}: no learner rank is on its device {', '.join(strangers)} (they are on "
                f"{', '.join(endpoints)}): cluster.transport=ipc is for cluster.placement=colocated"
            )
        lines = self._visit(offer, [endpoints[device] for device in sorted(set(devices))])
        try:
            what = f"to hand out the weights of version {offer.version}"
            messages = [line.receive(what) for line in lines]  # before anything of the old weights is touched
            self._call("start_weight_update")
            while all(kind == "chunk" for kind, _ in messages):
                chunks, aliases = tuple(content[0] for _, content in messages), messages[0][1][1]
                self._call("update_weights", {"chunks": chunks, "aliases": aliases})
                self.received += sum(sum(chunk.sizes) for chunk in chunks)
                for line in lines:
                    line.send("taken")
                messages = [line.receive(what) for line in lines]
            self._finish()
            for line in lines:
                line.send("taken")
        finally:
            for line in lines:
                line.close()

    def _from_broadcast(self, offer: Offer) -> None:
        (line,) = self._visit(offer, list(offer.endpoints[:1]))
        try:
            kind, content = line.receive(f"to begin with the weights of version {offer.version}")
            if kind == "join":
                name, joining = content
                self._group = None
                late = f"waiting for learner rank {offer.endpoints[0].rank} to form the broadcast group"
                late = f"{offer.receiver} timed out after {joining['timeout_s']:g} s {late}"
                self._call("init_weight_transfer_engine", {**joining, "message": late})
                self._group = name
                kind, content = line.receive(f"to begin with the weights of version {offer.version}")
            seconds = offer.route.timeout_s
            message = (
                f"{offer.receiver} timed out after {seconds:g} s waiting for learner rank {offer.endpoints[0].rank} "
                f"to broadcast the weights of version {offer.version}"
            )
            self._call("start_weight_update")
            self._call("update_weights", {**content, "timeout_s": seconds, "message": message})
            self._finish()
            self.received += sum(content["manifest"].sizes())
            line.send("taken")
        except BaseException:
            self._group = None  # what is left of it serves no further push
            raise
        finally:
            line.close()

    def _visit(self, offer: Offer, endpoints: list[Any]) -> list[Connection]:
        more = {"group": self._group, "processes": self.processes}
        return [
            connect(endpoint, offer.receiver, offer.version, offer.route.timeout_s, **more) for endpoint in endpoints
        ]

    def _finish(self) -> None:
        self._call("update_weights", {})  # raises unless all has come; vLLM takes errors here, and not while finishing
        self._call("finish_weight_update")

    def _call(self, method: str, *args: Any) -> Any:
        self.whole = self.whole and method != "start_weight_update"
        answers = self.engine.collective_rpc(method, args=args)
        self.whole = self.whole or method == "finish_weight_update"
        return answers


def _device_name(worker: Any) -> str:
    return transport.device_name(worker.device)


register()
rotate_by_head()
