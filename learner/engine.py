"""One rank's policy, optimizer and process group in DeepSpeed, which no other file imports.

In: a `Policy`, losses already weighted by the whole step's totals. Out: updated weights, gradient norms, checkpoints.
Must not know: objectives, trajectories, Ray.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from conf.chosen import fused_adamw, overlap_comm
from conf.schema import Device, Dtype, LearnerConf
from learner.fragments import Part, Saved, State
from learner.model import recurrent
from learner.model.policy import Policy
from learner.model.without_mlflow import without_mlflow
from learner.offload import Kind, Offloader
from learner.saving import Saver, write
from learner.written import Written
from rollout.base.key_store import store_url
from rollout.base.network import gloo_towards
from rollout.weight_sync.weights import MIB, buckets


def join_process_group(
    rank: int, ranks: int, address: str, port: int, device: Device, timeout_s: float, listener: int | None = None
) -> None:
    """Join the learner's process group (gloo on CPUs, NCCL on GPUs); every collective call then has that time-out.

    listener: a socket at that address that rank 0 has opened; see `rollout.base.key_store`.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR=address, MASTER_PORT=str(port))
    if device is Device.cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        gloo_towards(address)
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    with without_mlflow():
        import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")
    # Else DeepSpeed compiles an operator for tensor-parallel inference, which training does not use, and fills /dev/shm
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if device is Device.cpu else "nccl",
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=timeout_s),
        init_method=store_url(address, port, listener),
        rank=rank,
        world_size=ranks,
        verbose=False,
    )
    if ranks > 1:
        torch.distributed.barrier()


class _ClippedAdamW(torch.optim.AdamW):
    """For ZeRO 0 in float32: clips, keeps the norm before clipping, and skips a step whose gradient is not finite.

    Stages 1-3, and bfloat16 at stage 0 (where this would see one rank's part of the weights), do that themselves.
    """

    max_norm, norm, overflow = float("inf"), float("nan"), False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_norm))
        self.overflow = not math.isfinite(self.norm)
        return None if self.overflow else super().step(closure)


class Engine:
    """One DeepSpeed rank. The caller owns accumulation: any number of `accumulate`, then one `step`."""

    def __init__(self, policy: Policy, conf: LearnerConf, dtype: Dtype, ranks: int):
        import deepspeed

        self.policy, self.conf, self.ranks = policy, conf, ranks
        plain = conf.zero_stage == 0 and dtype is Dtype.float32
        optimizer_class = _ClippedAdamW if plain else torch.optim.AdamW
        optimizer = optimizer_class(
            [parameter for parameter in policy.parameters() if parameter.requires_grad],  # adapters alone, if there are
            lr=conf.lr,
            betas=(conf.betas[0], conf.betas[1]),
            eps=conf.eps,
            weight_decay=conf.weight_decay,
            # torch's, not DeepSpeed's FusedAdam: that one is compiled at its first use, with nvcc
            fused=fused_adamw(conf) or None,
        )
        if isinstance(optimizer, _ClippedAdamW) and conf.max_grad_norm:
            optimizer.max_norm = conf.max_grad_norm
        self.optimizer = optimizer
        # Such a layer runs once for each bucket of sequences, on each rank a different number of times: its weights are
        # gathered once for all of them.
        deepspeed.utils.set_z3_leaf_modules(policy, sorted(recurrent.LAYERS), raise_if_not_found=False)
        offload = {"device": "cpu"}
        self.deepspeed, *_ = deepspeed.initialize(
            model=policy,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,  # else ZeRO-2 keeps only the last micro-batch's gradient
                "gradient_clipping": 0.0 if plain else conf.max_grad_norm,
                # else DeepSpeed adds the micro-batches' gradients in bfloat16, which is 1 % off after 80 of them
                "data_types": {"grad_accum_dtype": "fp32" if conf.zero_stage else None},
                "communication_data_type": "fp32" if conf.zero_stage else None,
                "bf16": {"enabled": dtype is Dtype.bfloat16, "check_grad_overflow": dtype is Dtype.bfloat16},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": None,
                "zero_optimization": {
                    "stage": conf.zero_stage,
                    "overlap_comm": overlap_comm(conf),
                    **({"offload_optimizer": offload} if conf.offload_optimizer else {}),
                    **({"offload_param": offload} if conf.offload_parameters else {}),
                },
            },
        )
        self.device = self.deepspeed.device
        buckets = getattr(self.deepspeed.optimizer, "ipg_buckets", {})  # ZeRO's; gradients pass through their buffers
        scratch = lambda: [bucket.buffer for bucket in buckets.values()]  # noqa: E731
        self.offloader = Offloader(self.device, policy, [self.deepspeed, optimizer], scratch)
        self.saver = Saver()
        self._neighbours: Any = None  # the process group of the ranks that share each micro-batch
        if conf.sequence_parallel > 1:
            size, rank = conf.sequence_parallel, torch.distributed.get_rank()
            for first in range(0, ranks, size):  # every rank takes part in making every group
                group = torch.distributed.new_group(
                    list(range(first, first + size)), timeout=timedelta(seconds=conf.timeout_s)
                )
                if first <= rank < first + size:
                    self._neighbours = group

    def exchange(self, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Ulysses (arXiv 2309.14509): tokens for heads, `attention` over whole rows, heads for tokens.

        query, key, value and the answer: [1, n, heads, D], n tokens of this rank.
        """
        from deepspeed.sequence.layer import DistributedAttention

        out: Tensor = DistributedAttention(attention, self._neighbours, scatter_idx=2, gather_idx=1)(
            query, key, value, batch_dim_idx=0
        )
        return out

    def offload(self, kind: Kind) -> int:
        """Free the device's memory (see `learner.offload`). Returns the bytes offloaded."""
        if self.conf.zero_stage == 3 and self.offloader.offloaded != "all":
            self.deepspeed.empty_partition_cache()
        return self.offloader.offload(kind)

    def __call__(self, *args: Any) -> tuple[Tensor, Tensor | None]:
        """`Policy.forward`, with ZeRO's gathers."""
        self.offloader.need("weights", "a forward pass")
        return self.deepspeed(*args)

    def accumulate(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient. DeepSpeed averages over ranks and the loss holds the step's share:
        multiply."""
        self.offloader.need("everything", "a backward pass")
        self.deepspeed.backward(loss * self.ranks, scale_wrt_gas=False)

    def step(self, lr: float) -> tuple[float, bool]:
        """Reduce, clip, update. Returns the gradient norm before clipping and whether the update was applied.

        A non-finite gradient is never applied: weights and optimizer state stay as they were, on every rank alike.
        """
        self.offloader.need("everything", "an optimizer step")
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr
        self.deepspeed.step()
        if isinstance(self.optimizer, _ClippedAdamW):
            return self.optimizer.norm, not self.optimizer.overflow
        norm = self.deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan"), bool(self.deepspeed.was_step_applied())

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Public names and whole tensors; a collective call under ZeRO-3, where each tensor lives until the next one.

        There they are gathered learner.weight_sync_bucket_mib at a time.
        """
        self.offloader.need("weights", "reading the weights")
        if self.conf.zero_stage != 3:
            for name, parameter in self.policy.named_parameters():
                yield self.policy.public_name(name), parameter.data
            return
        import deepspeed

        limit = int(self.conf.weight_sync_bucket_mib * MIB)
        named = self.policy.named_parameters()
        for bucket in buckets(named, lambda one: cast(Any, one[1]).ds_numel * one[1].element_size(), limit):
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in bucket]):
                for name, parameter in bucket:
                    yield self.policy.public_name(name), parameter.data

    def outlines(self) -> Iterator[tuple[str, Tensor]]:
        """As `parameters`, but without data, in the full shapes; nothing is gathered."""
        for name, parameter in self.policy.named_parameters():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            yield self.policy.public_name(name), torch.empty(shape, dtype=parameter.dtype, device="meta")

    def save(self, folder: str, background: bool) -> Written | None:
        """Weights and optimizer; a file for each rank that holds some of them. In the background: copied when this
        returns, and written when `saver.written` says so."""
        self.offloader.need("everything", "saving a checkpoint")
        content, where = self._state().content(), Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        if background:
            self.saver.begin(where, content)
            return None
        return {} if content is None else write(where, content)

    def load(self, folder: str) -> None:
        """What any number of ranks, under any ZeRO stage, saved there. Raises BadInput when some of it is missing,
        damaged, or not this model's."""
        self.offloader.need("everything", "loading a checkpoint")
        self._state().load(Saved.read_from(Path(folder)))

    def part(self) -> Part | None:
        """See `State.part`."""
        self.offloader.need("everything", "keeping its state")
        return self._state().part()

    def restore(self, parts: Sequence[Part]) -> None:
        """What all ranks held."""
        self.offloader.need("everything", "going on from a state")
        self._state().load(Saved.of(parts))

    def _state(self) -> State:
        return State(self.policy, self.optimizer, self.deepspeed.optimizer, torch.distributed.get_rank())
