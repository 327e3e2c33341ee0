"""The life of one learner rank: start, update, publish, save. The class of a Ray actor, usable without Ray.

In: micro-batches. Out: reports, log-probs, weights, checkpoints. Must not know: groups, rewards, Ray, other ranks'
data, how an update is computed (`learner.updater`). `start`, `update`, `fine_tune`, `logprobs`, `export`, `save` and
`load` are collective, and under ZeRO-3 `publish` and `send` as well: every rank is called, in the same order.
"""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conf.schema import AlgorithmConf, Device, Dtype, LearnerConf, ModelConf
from learner.data.batch import MicroBatch
from learner.engine import Engine, join_process_group
from learner.fragments import Part
from learner.metrics.report import StepReport
from learner.model import attention, lora
from learner.model.parity import refuse_different
from learner.model.policy import Policy, compile_layers, load_policy
from learner.model.reference import frozen
from learner.offload import Kind
from learner.ranks import agree, digest, named_wait
from learner.updater import Updater
from learner.written import Written
from rollout.base.deterministic import deterministic_learner
from rollout.base.errors import BadInput
from rollout.base.gpu import refuse_no_gpu
from rollout.base.spans import Traced, spent
from rollout.mode import modes_of
from rollout.steering import forget_dial
from rollout.weight_sync.sender import WeightSender
from rollout.weight_sync.weights import Endpoint, Route, Weights

PROGRESS = "learner.json"  # of a checkpoint: {"updates": optimizer steps}


@dataclass(frozen=True, slots=True)
class Kept:
    """A rank's state between two updates."""

    part: Part | None
    updates: int
    bad_in_a_row: int


class LearnerWorker(Traced):
    def __init__(
        self,
        conf: LearnerConf,
        model: ModelConf,
        path: str,
        rank: int,
        temperature: float,
        total_updates: int,
        longest: int = 0,
        deterministic: int | None = None,
        host: Callable[[], str] = lambda: "127.0.0.1",
    ):
        """path: Hugging Face folder; temperature: of the rollouts; total_updates: optimizer steps of the whole
        schedule; longest: tokens of the longest sequence to come (see `learner.model.parity`); deterministic: a seed,
        for deterministic kernels; host: gives the address by which other hosts reach this one (the default serves ranks
        and samplers on one host)."""
        if conf.device is Device.cpu:
            torch.set_num_threads(conf.threads)
        else:
            refuse_no_gpu("learner.device")
        if deterministic is not None:
            deterministic_learner(deterministic)
        super().__init__()
        self.conf, self.model, self.path, self.rank = conf, model, path, rank
        self.temperature, self.total_updates, self.longest = temperature, total_updates, longest
        self.host = host
        self.reference: Policy | lora.Unadapted | None = None
        self.publisher: WeightSender | None = None  # once started
        self._held: dict[int, list[Kept]] = {}  # by rank: its last two
        self._listener: socket.socket | None = None  # rank 0's, until the group has it

    def ready(self) -> int:
        return self.rank

    def vocabulary(self) -> int:
        """Rows of the output head: token ids are below it."""
        return self.engine.policy.vocabulary

    def close(self) -> None:
        """Leave the process group."""
        if self.publisher is not None:
            self.publisher.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def address(self, port: int | None) -> tuple[str, int]:
        """Where rank 0 listens from now on: this host's address (loopback for a single rank) and `port`, or a free one.
        Raises OSError when it is in use."""
        host = self.host() if self.conf.ranks > 1 else "127.0.0.1"
        self._listener = socket.create_server((host, port or 0))
        return host, self._listener.getsockname()[1]

    @named_wait
    def start(self, address: str, port: int, reference: bool) -> int:
        """Join the group, load the model (and the frozen reference). Returns the number of parameters.

        Raises BadInput when the model cannot be loaded, or is none whose log-probs the learner computes rightly.
        """
        model, conf = self.model, self.conf
        listener = self._listener.detach() if self._listener is not None else None
        join_process_group(self.rank, conf.ranks, address, port, conf.device, conf.timeout_s, listener)
        load = functools.partial(
            load_policy,
            self.path,
            model.dtype.value,
            model.trust_remote_code,
            revision=model.revision,
            float32_head=model.head_dtype is Dtype.float32,
            fused_head=conf.fused_head,
        )
        if conf.device is Device.gpu and model.dtype is Dtype.bfloat16:
            chosen = attention.choose_flash_attention(conf.flash_attention)
            if self.rank == 0:
                print(f"learner: {chosen}", flush=True)
        policy = load(checkpointing=conf.gradient_checkpointing)
        parameters = sum(p.numel() for p in policy.parameters())
        shapes = [(name, tuple(p.shape)) for name, p in policy.named_parameters()]
        agree(conf, "the model's weights", parameters, policy.vocabulary, digest(repr(shapes)))
        refuse_different(policy, self.path, self.longest, conf.device)  # whole, before adapters and ZeRO
        if model.lora.rank:
            lora.attach(policy.causal_lm, model.lora)
        if conf.compile_layers:
            compile_layers(policy)
        learnt = Dtype.float32 if model.lora.rank else model.dtype  # adapters, whatever the frozen weights are
        self.engine = Engine(policy, conf, learnt, conf.ranks)
        self.updater = Updater(
            self.engine, conf, self.rank, self.temperature, self.total_updates, modes_of(self.model.modes)
        )
        merge = functools.partial(lora.merged, conf=model.lora) if model.lora.rank else None
        self.publisher = WeightSender(self.rank, self.engine, merge)
        if reference and model.lora.rank:
            self.reference = lora.Unadapted(self.engine, policy)
        elif reference:
            self.reference = frozen(load(), self.engine.device, conf.offload_reference)
            if conf.compile_layers:
                compile_layers(self.reference)
        self.engine.offloader.also(lambda: self.reference)
        return parameters

    def offload(self, kind: Kind) -> int:
        """Free the device for the sampler: "optimizer" (enough to publish) or "all". Returns the bytes offloaded."""
        with self.spans.of("leaving the GPU"):
            return self.engine.offload(kind)

    def reload(self) -> None:
        """Bring everything that was offloaded back to the device."""
        with self.spans.of("taking the GPU"):
            self.engine.offloader.reload()

    # ------------------------------------------------------------------ learning

    @named_wait
    @spent("learning")
    def update(self, steps: list[tuple[MicroBatch, ...]], algorithm: AlgorithmConf) -> StepReport:
        """One optimizer step for each entry of `steps`, this rank's micro-batches."""
        return self.updater.update(steps, algorithm, self.reference)

    @named_wait
    def fine_tune(self, batch: tuple[MicroBatch, ...]) -> tuple[float, int]:
        """One supervised optimizer step. Returns this rank's share of the loss (nats per token) and its tokens."""
        return self.updater.fine_tune(batch)

    @named_wait
    @spent("scoring")
    def logprobs(self, batch: tuple[MicroBatch, ...], temperature: float) -> list[np.ndarray]:
        """See `Updater.logprobs`."""
        return self.updater.logprobs(batch, temperature)

    # ------------------------------------------------------------------ weights out

    @named_wait
    @spent("publishing")
    def publish(self, version: int) -> Weights | None:
        """All weights, for the object store; rank 0 returns them, and under ZeRO-3 every rank must be called.

        They may be this rank's own memory: whoever keeps them in this process takes a copy.
        """
        return self._publisher().weights(version)

    def open_endpoint(self, route: Route) -> Endpoint:
        """Where the sampler fetches what `send` sends."""
        return self._publisher().open(route, self.host())

    @named_wait
    @spent("publishing")
    def send(self, version: int) -> Weights | None:
        """Send the weights to the workers that connect; collective under ZeRO-3. See `WeightSender.send`."""
        return self._publisher().send(version)

    def _publisher(self) -> WeightSender:
        assert self.publisher is not None, "the rank has not started"
        return self.publisher

    @named_wait
    @spent("saving")
    def export(self, folder: str) -> None:
        """A Hugging Face model folder (weights and config; the caller adds the tokenizer)."""
        named = {name: tensor.detach().to("cpu").clone() for name, tensor in self.engine.parameters()}
        if self.rank == 0 and self.model.lora.rank:
            lora.save_adapter(Path(folder) / lora.FOLDER, named, self.model.lora, self.path)
            named = dict(lora.merged(named.items(), self.model.lora))
        if self.rank == 0:
            causal_lm = self.engine.policy.causal_lm
            forget_dial(causal_lm.config)
            causal_lm.config.use_cache = True
            causal_lm.save_pretrained(folder, state_dict=named)
            causal_lm.config.use_cache = False

    @named_wait
    @spent("saving")
    def save(self, folder: str, background: bool = False) -> Written | None:
        """This rank's part of a checkpoint: its files with their digests. In the background: None, when it is copied
        and the rank can learn on; `saved` gives them."""
        written = self.engine.save(folder, background)
        if self.rank == 0:
            (Path(folder) / PROGRESS).write_text(json.dumps({"updates": self.updater.updates}))
            lora.record(folder, self.model.lora)
        return written

    def saved(self, whole: bool) -> Written | None:
        """What the last `save` in the background has written. See `Saver.written`."""
        return self.engine.saver.written(whole)

    @named_wait
    def load(self, folder: str) -> int:
        """Go on from a checkpoint; returns the optimizer steps it had done."""
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"checkpoint {folder} does not exist")
        lora.refuse_others(folder, self.model.lora)
        if not (progress := Path(folder) / PROGRESS).is_file():
            raise BadInput(
                f"{folder} has no {PROGRESS}: a version before 2026-11-29 saved it, with pickled files, which this one "
                "does not read; go on with that version, or start a new run"
            )
        self.engine.load(folder)
        self.updater.updates = int(json.loads(progress.read_text())["updates"])
        return self.updater.updates

    @spent("saving")
    def keep(self) -> Kept:
        """For `restore`. It may be this rank's own memory, as with `publish`. Waits for no other rank."""
        return Kept(self.engine.part(), self.updater.updates, self.updater.bad_in_a_row)

    def hold(self, rank: int, kept: Kept) -> None:
        """What a rank of another host has kept. Ray has brought a copy of it to this host's object store, which it does
        not drop while this process refers to it, and goes on from when the other host is lost. The one before it may
        still be needed: see `learner.restarts`."""
        self._held[rank] = [*self._held.get(rank, [])[-1:], kept]

    def restore(self, *kept: Kept) -> int:
        """Go on from what all ranks have kept after the same update; returns the optimizer steps done by then."""
        self.engine.restore([one.part for one in kept if one.part is not None])
        self.updater.updates, self.updater.bad_in_a_row = kept[0].updates, kept[0].bad_in_a_row
        return self.updater.updates
