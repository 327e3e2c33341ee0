"""One rank of the learner group: the body of a Ray actor, and as good without Ray.

In: micro-batches. Out: reports, log-probs, weights, checkpoints. Must not know: groups, rewards, Ray, other ranks'
data. All methods but `publish` and `logprobs` are collective: every rank is called, in the same order.
"""

from __future__ import annotations

import math
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import AlgorithmConf, Device, LearnerConf, ModelConf
from learner.attention import Layout
from learner.batch import MicroBatch
from learner.engine import Engine, join_process_group
from learner.loss.surrogate import policy_losses
from learner.model import Policy, load_policy
from learner.report import StepReport
from learner.schedule import learning_rate
from rollout.weights import Weights, flatten


class LearnerWorker:
    def __init__(
        self, conf: LearnerConf, model: ModelConf, path: str, rank: int, temperature: float, total_updates: int
    ):
        """path: Hugging Face folder; temperature: of the rollouts; total_updates: optimizer steps of the whole
        schedule."""
        if conf.device is Device.cpu:
            torch.set_num_threads(conf.threads)
        self.conf, self.model, self.path, self.rank = conf, model, path, rank
        self.temperature, self.total_updates = temperature, total_updates
        self.updates = 0  # optimizer steps applied or skipped
        self.bad_in_a_row = 0
        self.reference: Policy | None = None

    def ready(self) -> int:
        return self.rank

    def close(self) -> None:
        """Leave the process group."""
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

    def start(self, address: str, port: int, reference: bool) -> int:
        """Join the group, load the model (and the frozen reference). Returns the number of parameters."""
        join_process_group(self.rank, self.conf.ranks, address, port, self.conf.device, self.conf.timeout_s)
        model, conf = self.model, self.conf
        policy = load_policy(
            self.path, model.dtype.value, model.trust_remote_code, conf.gradient_checkpointing, model.revision
        )
        parameters = sum(p.numel() for p in policy.parameters())
        self.engine = Engine(policy, conf, model.dtype, conf.ranks)
        if reference:
            self.reference = load_policy(self.path, model.dtype.value, model.trust_remote_code, revision=model.revision)
            self.reference.requires_grad_(False).to(self.engine.device)
        return parameters

    # ------------------------------------------------------------------ learning

    def update(self, steps: list[tuple[MicroBatch, ...]], algorithm: AlgorithmConf) -> StepReport:
        """One optimizer step for each entry of `steps` (this rank's share). Old and reference log-probs are taken
        first."""
        begin, sums = time.monotonic(), _Sums()
        with torch.no_grad():
            ref = [[self._score(self.reference, mb)[0] if self.reference else None for mb in step] for step in steps]
            old = [
                [self._score(self.engine, mb)[0] for mb in step] if len(steps) > 1 else [None] * len(step)
                for step in steps
            ]

        def loss(mb: MicroBatch, place: tuple[int, int]) -> Tensor:
            k, m = place
            logprobs, entropies = self._score(self.engine, mb)
            before = old[k][m] if old[k][m] is not None else logprobs.detach()
            behavior, weights, kl_weights, advantages = self._tensors(
                mb.behavior_logprobs, mb.weights, mb.kl_weights, mb.advantages
            )
            parts = policy_losses(
                logprobs, before, ref[k][m], advantages, weights, kl_weights, algorithm.clip, algorithm.max_log_ratio
            )
            sums.add(mb, logprobs.detach(), before, ref[k][m], behavior, entropies, parts, algorithm.kl)
            return parts.surrogate.sum() + algorithm.kl * parts.kl.sum()

        norms, skipped = zip(*(self._optimizer_step(step, k, loss) for k, step in enumerate(steps)), strict=True)
        return sums.report(
            self.engine.device,
            updates=self.updates,
            skipped=sum(skipped),
            seconds=time.monotonic() - begin,
            lr=self._lr(),
            grad_norm=float(np.mean(norms)),
        )

    def fine_tune(self, batch: tuple[MicroBatch, ...]) -> tuple[float, int]:
        """One supervised optimizer step. Returns this rank's share of the loss (nats per token) and its tokens."""
        total = 0.0

        def loss(mb: MicroBatch, _: tuple[int, int]) -> Tensor:
            nonlocal total
            (weights,) = self._tensors(mb.weights)
            value = -(weights * self._score(self.engine, mb, temperature=1.0)[0]).sum()
            total += float(value.detach())
            return value

        self._optimizer_step(batch, 0, loss)
        return total, sum(sum(mb.lengths) for mb in batch)

    def _optimizer_step(
        self, batch: tuple[MicroBatch, ...], index: int, loss: Callable[[MicroBatch, tuple[int, int]], Tensor]
    ) -> tuple[float, bool]:
        """Accumulate over the micro-batches and step. Returns (gradient norm, skipped)."""
        for m, mb in enumerate(batch):
            self.engine.accumulate(loss(mb, (index, m)))
        norm, applied = self.engine.step(self._lr())
        self.updates += 1
        self.bad_in_a_row = 0 if applied else self.bad_in_a_row + 1
        if self.bad_in_a_row >= self.conf.max_bad_steps:
            raise FloatingPointError(
                f"{self.bad_in_a_row} optimizer steps in a row had a non-finite loss or gradient (rank {self.rank}, "
                f"update {self.updates}): lower learner.lr, or look at the last trajectories in the run folder"
            )
        return norm, not applied

    def _lr(self) -> float:
        return learning_rate(self.conf, self.updates, self.total_updates)

    def _score(self, policy: Any, mb: MicroBatch, temperature: float | None = None) -> tuple[Tensor, Tensor]:
        token_ids, position_ids, response = self._tensors(mb.token_ids, mb.position_ids, mb.response)
        layout = Layout(list(mb.lengths), self.engine.device)
        return policy(
            token_ids, position_ids, response, layout, temperature or self.temperature, self.conf.logprob_chunk
        )

    def _tensors(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.tensor(a, device=self.engine.device) for a in arrays]

    # ------------------------------------------------------------------ what others ask for

    def logprobs(self, batch: tuple[MicroBatch, ...], temperature: float) -> list[np.ndarray]:
        """Log-probs f32[N] of each micro-batch's response tokens under the current weights (zero on prompts)."""
        with torch.no_grad():
            return [self._score(self.engine, mb, temperature)[0].float().cpu().numpy() for mb in batch]

    def publish(self, version: int) -> Weights | None:
        """All weights for the sampler; rank 0 returns them, and under ZeRO-3 every rank must be called."""
        if self.rank != 0 and self.conf.zero_stage != 3:
            return None
        named = ((name, tensor.to("cpu", copy=self.conf.zero_stage == 3)) for name, tensor in self.engine.parameters())
        embedding = self.engine.policy.public_name("body.embed_tokens.weight")
        aliases = {"lm_head.weight": embedding} if self.engine.policy.tied else {}
        weights = flatten(named, version, aliases)
        return weights if self.rank == 0 else None

    def gradients(self, steps: list[tuple[MicroBatch, ...]], algorithm: AlgorithmConf) -> dict[str, np.ndarray]:
        """For tests: `update`, returning the reduced, unclipped gradients of its (last) optimizer step."""
        with self.engine.captured_gradients() as taken:
            self.update(steps, algorithm)
        return {name: gradient.numpy() for name, gradient in taken.items()}

    def export(self, folder: str) -> None:
        """A Hugging Face model folder (weights and config; the caller adds the tokenizer)."""
        named = {name: tensor.detach().to("cpu").clone() for name, tensor in self.engine.parameters()}
        if self.rank == 0:
            causal_lm = self.engine.policy.causal_lm
            causal_lm.config.use_cache = True
            causal_lm.save_pretrained(folder, state_dict=named)
            causal_lm.config.use_cache = False

    def save(self, folder: str) -> None:
        self.engine.save(folder, {"updates": self.updates})

    def load(self, folder: str) -> int:
        """Go on from a checkpoint; returns the optimizer steps it had done."""
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"checkpoint {folder} does not exist")
        self.updates = self.engine.load(folder)["updates"]
        return self.updates


class _Sums:
    """Sums over response tokens on one rank, added over ranks once per update."""

    def __init__(self) -> None:
        self.values: dict[str, float] = defaultdict(float)
        self.largest_mismatch = 0.0

    def add(
        self,
        mb: MicroBatch,
        logprobs: Tensor,
        old: Tensor,
        ref: Tensor | None,
        behavior: Tensor,
        entropies: Tensor,
        parts: Any,
        kl_coefficient: float,
    ) -> None:
        device = logprobs.device
        counted = torch.tensor(mb.response & (mb.kl_weights > 0), device=device)  # not a rank's idle row
        control = torch.tensor(mb.control, device=device)
        modes = torch.tensor(mb.modes, device=device)
        gap = (old - behavior)[counted].double()
        surrogate = parts.surrogate.detach()
        values = {
            "count": counted.sum(),
            "tokens": torch.tensor(float(sum(mb.lengths)) if bool(counted.any()) else 0.0),
            "loss_control": surrogate[control].sum(),
            "loss_response": surrogate[~control].sum(),
            "loss_kl": kl_coefficient * parts.kl.detach().sum(),
            "loss_think": surrogate[modes == 0].sum(),
            "loss_short": surrogate[modes == 1].sum(),
            "entropy": entropies[counted].sum(),
            "clip": parts.clipped[counted].sum(),
            "mismatch_kl": ((-gap).clamp(-10, 10).exp() + gap - 1).sum(),
            "mismatch_abs": gap.abs().sum(),
        }
        if ref is not None:
            to_ref = (ref - logprobs)[counted].double().clamp(-10, 10)
            values["kl"] = (to_ref.exp() - to_ref - 1).sum()
        for name, value in values.items():
            self.values[name] += float(value)
        if len(gap):
            self.largest_mismatch = max(self.largest_mismatch, float(gap.abs().max()))

    def report(self, device: torch.device, **known: Any) -> StepReport:
        names = ("count", "tokens", "loss_control", "loss_response", "loss_kl", "loss_think", "loss_short", "entropy",
                 "clip", "mismatch_kl", "mismatch_abs", "kl")  # fmt: skip
        total = torch.tensor([self.values[name] for name in names], dtype=torch.float64, device=device)
        largest = torch.tensor(self.largest_mismatch, dtype=torch.float64, device=device)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        value = dict(zip(names, total.tolist(), strict=True))
        count = value["count"] or math.nan
        return StepReport(
            **known,
            tokens=int(value["tokens"]),
            loss=value["loss_control"] + value["loss_response"] + value["loss_kl"],
            loss_control=value["loss_control"],
            loss_response=value["loss_response"],
            loss_kl=value["loss_kl"],
            loss_think=value["loss_think"],
            loss_short=value["loss_short"],
            entropy=value["entropy"] / count,
            kl=value["kl"] / count,
            clip_fraction=value["clip"] / count,
            mismatch_kl=value["mismatch_kl"] / count,
            mismatch_mean_abs=value["mismatch_abs"] / count,
            mismatch_max_abs=float(largest),
        )
