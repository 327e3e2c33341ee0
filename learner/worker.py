"""One rank of the learner group: the body of a Ray actor, and as good without Ray.

In: micro-batches. Out: reports, log-probs, weights, checkpoints. Must not know: groups, rewards, Ray, other ranks'
data. All methods but `publish` and `logprobs` are collective: every rank is called, in the same order.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import AlgorithmConf, Device, Dtype, LearnerConf, ModelConf, Old
from learner.data.batch import MicroBatch
from learner.data.flops import device_peak
from learner.data.shared_prefix import origins
from learner.engine import Engine, join_process_group
from learner.loss.surrogate import policy_losses
from learner.metrics.loss_metrics import LossMetrics
from learner.metrics.memory import PeakMemory
from learner.metrics.nonfinite import NonfiniteWatch
from learner.metrics.report import StepReport, bad_steps
from learner.model import lora
from learner.model.attention import Layout
from learner.model.parity import refuse_different
from learner.model.policy import Policy, load_policy
from learner.model.reference import frozen, on_device
from learner.model.sequence_parallel import shard
from learner.offload import Kind
from learner.ranks import agree, digest, named_wait
from learner.schedule import learning_rate
from learner.weight_sender import WeightSender
from rollout.base.spans import Span, Spans, spent
from rollout.weight_sync.weights import Endpoint, Route, Weights


class LearnerWorker:
    def __init__(
        self,
        conf: LearnerConf,
        model: ModelConf,
        path: str,
        rank: int,
        temperature: float,
        total_updates: int,
        longest: int = 0,
    ):
        """path: Hugging Face folder; temperature: of the rollouts; total_updates: optimizer steps of the whole
        schedule; longest: tokens of the longest sequence to come (see `learner.model.parity`)."""
        if conf.device is Device.cpu:
            torch.set_num_threads(conf.threads)
        self.conf, self.model, self.path, self.rank = conf, model, path, rank
        self.temperature, self.total_updates, self.longest = temperature, total_updates, longest
        self.part, self.parts = rank % conf.sequence_parallel, conf.sequence_parallel  # of each micro-batch's row
        self.spans = Spans()
        self.updates = 0  # optimizer steps applied or skipped
        self.bad_in_a_row = 0
        self.reference: Policy | lora.Unadapted | None = None
        self.publisher: WeightSender | None = None  # once started

    def ready(self) -> int:
        return self.rank

    def clock(self) -> float:
        """This host's seconds since the epoch."""
        return time.time()

    def take_spans(self) -> list[Span]:
        """What it did since this was last asked."""
        return self.spans.take()

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
        """Where rank 0 will listen: this host's address and `port`, or a free one. Raises OSError when it is in use."""
        with socket.socket() as probe:
            probe.bind(("", port or 0))
            free = probe.getsockname()[1]
        try:
            host = socket.gethostbyname(socket.gethostname())
        except OSError:
            host = "127.0.0.1"
        return host, free

    @named_wait
    def start(self, address: str, port: int, reference: bool) -> int:
        """Join the group, load the model (and the frozen reference). Returns the number of parameters.

        Raises BadInput when the model cannot be loaded, or is none whose log-probs the learner computes rightly.
        """
        join_process_group(self.rank, self.conf.ranks, address, port, self.conf.device, self.conf.timeout_s)
        model, conf = self.model, self.conf
        policy = load_policy(
            self.path, model.dtype.value, model.trust_remote_code, conf.gradient_checkpointing, model.revision
        )
        parameters = sum(p.numel() for p in policy.parameters())
        shapes = [(name, tuple(p.shape)) for name, p in policy.named_parameters()]
        agree(conf, "the model's weights", parameters, policy.vocabulary, digest(repr(shapes)))
        refuse_different(policy, self.path, self.longest, conf.device)  # whole, before adapters and ZeRO
        if model.lora.rank:
            lora.attach(policy.causal_lm, model.lora)
        learnt = Dtype.float32 if model.lora.rank else model.dtype  # adapters, whatever the frozen weights are
        self.engine = Engine(policy, conf, learnt, conf.ranks)
        self.publisher = WeightSender(self.rank, conf.ranks, self.engine, model.lora)
        if reference and model.lora.rank:
            self.reference = lora.Unadapted(self.engine, policy)
        elif reference:
            copy = load_policy(self.path, model.dtype.value, model.trust_remote_code, revision=model.revision)
            self.reference = frozen(copy, self.engine.device, conf.offload_reference)
        self.engine.offloader.also(lambda: self.reference)
        return parameters

    def offload(self, kind: Kind) -> int:
        """Leave the device to the sampler: "optimizer" (enough to publish) or "all". Returns the bytes at rest."""
        with self.spans.of("leaving the GPU"):
            return self.engine.offload(kind)

    def reload(self) -> None:
        """Take up again what rests."""
        with self.spans.of("taking the GPU"):
            self.engine.offloader.reload()

    # ------------------------------------------------------------------ learning

    @named_wait
    @spent("learning")
    def update(self, steps: list[tuple[MicroBatch, ...]], algorithm: AlgorithmConf) -> StepReport:
        """One optimizer step for each entry of `steps` (this rank's share). Old and reference log-probs are taken
        first."""
        begin, memory = time.monotonic(), PeakMemory(self.engine.device)
        counts = [len(step) for step in steps]
        agree(self.conf, "the update's micro-batches", len(steps), sum(counts), digest(repr(counts)))
        sums = LossMetrics(algorithm, steps if self.part == 0 else [])
        steps = [self._own(step) for step in steps]
        watch = NonfiniteWatch(self.rank, self.conf.ranks)
        reference = self.reference if algorithm.kl else None
        with memory.of("score"), torch.no_grad(), on_device(reference, self.engine.device):
            ref = [[self._score(reference, mb)[0] if reference else None for mb in step] for step in steps]
        again = algorithm.old is Old.learner  # not for the first optimizer step: its own forward pass gives them
        with memory.of("score"), torch.no_grad():
            old = [[self._score(self.engine, mb)[0] if k and again else None for mb in s] for k, s in enumerate(steps)]

        def loss(mb: MicroBatch, place: tuple[int, int]) -> Tensor:
            k, m = place
            logprobs, entropies = self._score(self.engine, mb)
            before = old[k][m] if k else logprobs.detach()
            behavior, weights, kl_weights, advantages = self._tensors(
                mb.behavior_logprobs, mb.weights, mb.kl_weights, mb.advantages
            )
            parts = policy_losses(logprobs, before, behavior, ref[k][m], advantages, weights, kl_weights, algorithm)
            sums.add(mb, logprobs.detach(), before, ref[k][m], behavior, entropies, parts)
            losses = parts.surrogate + algorithm.kl * parts.kl
            watch.take(mb, self._start(mb), losses)
            return losses.sum()

        self.engine.policy.watch = watch.gradient
        norms, skipped = zip(
            *(self._optimizer_step(step, k, loss, memory, watch) for k, step in enumerate(steps)), strict=True
        )
        self.engine.policy.watch = None
        return sums.report(
            watch,
            updates=self.updates,
            skipped=sum(skipped),
            bad_in_a_row=self.bad_in_a_row,
            nonfinite=tuple(watch.kept),
            memory=memory.take(),
            peak=device_peak(self.engine.device),
            seconds=time.monotonic() - begin,
            lr=self._lr(),
            grad_norm=float(np.mean(norms)),
        )

    @named_wait
    def fine_tune(self, batch: tuple[MicroBatch, ...]) -> tuple[float, int]:
        """One supervised optimizer step. Returns this rank's share of the loss (nats per token) and its tokens."""
        total = 0.0

        def loss(mb: MicroBatch, _: tuple[int, int]) -> Tensor:
            nonlocal total
            (weights,) = self._tensors(mb.weights)
            value = -(weights * self._score(self.engine, mb, temperature=1.0)[0]).sum()
            total += float(value.detach())
            return value

        self._optimizer_step(self._own(batch), 0, loss, PeakMemory(self.engine.device))
        if self.bad_in_a_row >= self.conf.max_bad_steps:
            raise FloatingPointError(bad_steps(self.bad_in_a_row, self.updates))
        return total, sum(sum(mb.lengths) for mb in batch) if self.part == 0 else 0

    def _optimizer_step(
        self,
        batch: tuple[MicroBatch, ...],
        index: int,
        loss: Callable[[MicroBatch, tuple[int, int]], Tensor],
        memory: PeakMemory,
        watch: NonfiniteWatch | None = None,
    ) -> tuple[float, bool]:
        """Accumulate over the micro-batches and step. Returns (gradient norm, skipped)."""
        with memory.of("learn"):
            for m, mb in enumerate(batch):
                self.engine.accumulate(loss(mb, (index, m)))
        with memory.of("step"):
            norm, applied = self.engine.step(self._lr())
        self.updates += 1
        self.bad_in_a_row = 0 if applied else self.bad_in_a_row + 1
        if watch is not None:
            watch.step(applied, batch, self.updates - 1)
        return norm, not applied

    def _start(self, mb: MicroBatch) -> int:
        """The first token of a micro-batch's row that this rank holds hidden states of."""
        return self.part * (len(mb.token_ids) // self.parts)

    def _lr(self) -> float:
        return learning_rate(self.conf, self.updates, self.total_updates)

    def _own(self, batch: tuple[MicroBatch, ...]) -> tuple[MicroBatch, ...]:
        """This rank's part of each micro-batch."""
        return tuple(shard(mb, self.part, self.parts) for mb in batch)

    def _score(self, policy: Any, mb: MicroBatch, temperature: float | None = None) -> tuple[Tensor, Tensor]:
        token_ids, position_ids, response = self._tensors(mb.token_ids, mb.position_ids, mb.response)
        exchange = self.engine.exchange if self.parts > 1 else None
        shared = origins(mb) if self.parts == 1 else None
        layout = Layout(list(mb.lengths), self.engine.device, self.part, self.parts, exchange, shared)
        return policy(
            token_ids, position_ids, response, layout, temperature or self.temperature, self.conf.logprob_chunk
        )

    def _tensors(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.tensor(a, device=self.engine.device) for a in arrays]

    # ------------------------------------------------------------------ what others ask for

    @named_wait
    @spent("scoring")
    def logprobs(self, batch: tuple[MicroBatch, ...], temperature: float) -> list[np.ndarray]:
        """Log-probs f32[N] of each micro-batch's response tokens under the current weights (zero elsewhere).

        Under sequence parallelism each rank gives those of its part, zero on the others'.
        """
        with torch.no_grad():
            scored = [self._score(self.engine, mb, temperature)[0].float().cpu().numpy() for mb in self._own(batch)]
        return [values[: len(mb.token_ids)] for values, mb in zip(scored, batch, strict=True)]

    @named_wait
    @spent("publishing")
    def publish(self, version: int) -> Weights | None:
        """All weights, for the object store; rank 0 returns them, and under ZeRO-3 every rank must be called.

        They may be this rank's own memory: whoever keeps them in this process takes a copy.
        """
        return self._publisher().weights(version)

    def open_endpoint(self, route: Route) -> Endpoint:
        """Where the sampler fetches what `send` sends."""
        return self._publisher().open(route, self.address(None)[0])

    @named_wait
    @spent("publishing")
    def send(self, version: int) -> Weights | None:
        """Send the weights to those who come through the door; collective under ZeRO-3. See `WeightSender.send`."""
        return self._publisher().send(version)

    def _publisher(self) -> WeightSender:
        assert self.publisher is not None, "the rank has not started"
        return self.publisher

    @named_wait
    def gradients(self, steps: list[tuple[MicroBatch, ...]], algorithm: AlgorithmConf) -> dict[str, np.ndarray]:
        """For tests: `update`, returning the reduced, unclipped gradients of its (last) optimizer step."""
        with self.engine.captured_gradients() as taken:
            self.update(steps, algorithm)
        return {name: gradient.numpy() for name, gradient in taken.items()}

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
            causal_lm.config.use_cache = True
            causal_lm.save_pretrained(folder, state_dict=named)
            causal_lm.config.use_cache = False

    @named_wait
    @spent("saving")
    def save(self, folder: str) -> None:
        self.engine.save(folder, {"updates": self.updates})
        if self.rank == 0:
            lora.record(folder, self.model.lora)

    @named_wait
    def load(self, folder: str) -> int:
        """Go on from a checkpoint; returns the optimizer steps it had done."""
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"checkpoint {folder} does not exist")
        lora.refuse_others(folder, self.model.lora)
        self.updates = self.engine.load(folder)["updates"]
        return self.updates
