"""The choices that settings offer: one enumeration each, its values as they are written in YAML files and overrides.

In: nothing. Out: enumerations, which `conf.schema` uses. Must not know: other rooms.
"""

from __future__ import annotations

from enum import Enum


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Form(Enum):
    """How token losses are aggregated (see `learner.loss`)."""

    paper = "paper"  # 1/T_i per response
    code = "code"  # 1/sum_i T_i, as in the reference code


class Loss(Enum):
    """The objective: a file of `learner.loss` each (see the table in `learner.objective`)."""

    degrpo = "degrpo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"


class Old(Enum):
    """The log-probs that the clipped ratio is taken against (see `learner.loss.surrogate`)."""

    learner = "learner"  # the learner's own before the batch's first optimizer step
    sampler = "sampler"  # the behavior log-probs


class Importance(Enum):
    """What becomes of a token's importance weight, pi_old (learner) / mu (sampler), above its cap."""

    none = "none"  # no weights at all
    truncate = "truncate"  # min(weight, cap)
    mask = "mask"  # the token leaves the loss


class KLEstimator(Enum):
    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class Schedule(Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class OnWeightSync(Enum):
    """What becomes of the sequences under way when a sampler takes new weights."""

    keep = "keep"  # they go on with the keys and values that the old weights made
    recompute = "recompute"  # they go on, keys and values computed anew by the new weights
    drain = "drain"  # they end first, and none begins until the new weights are there


class Device(Enum):
    cpu = "cpu"
    gpu = "gpu"


class Placement(Enum):
    """Who sits on which GPU (see `orchestrator.cluster.placement`)."""

    disaggregated = "disaggregated"  # samplers and learner ranks have GPUs of their own
    colocated = "colocated"  # every GPU holds a sampler (or a tensor-parallel part of one) and a learner rank, in turns


class Transport(Enum):
    """How weights go from the learner to the samplers (see `rollout.weight_sync.weights.transport`)."""

    auto = "auto"  # decided by the devices and the placement
    object_store = "object_store"  # through Ray's shared memory: one copy for each host, read there by all its workers
    ipc = "ipc"  # from the memory of the device that both use, a bucket at a time: CUDA IPC; on a CPU, a memory file
    nccl = "nccl"  # broadcast from learner rank 0's GPU to the samplers' GPUs


class SystemTurn(Enum):
    """What becomes of a chat's system turn, where data come as chats."""

    drop = "drop"
    prepend = "prepend"  # put before the question, with an empty line between
