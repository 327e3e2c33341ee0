"""The choices of settings, one enumeration each, with the values as written in YAML files and overrides."""

from __future__ import annotations

from enum import Enum


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Task(Enum):
    """The generated task (see `rollout.data.generated`)."""

    arithmetic = "arithmetic"  # chains of absolute differences, 17 to 89 tokens
    register = "register"  # moves of a shift register, hundreds of tokens


class Figure(Enum):
    """What a validation measures, of all its answers."""

    reward = "reward"
    accuracy = "accuracy"
    think_rate = "think_rate"
    tokens = "tokens"


class Form(Enum):
    """How token losses are aggregated (see `learner.loss`)."""

    paper = "paper"  # 1/T_i per response
    code = "code"  # 1/sum_i T_i, as in the reference code


class Loss(Enum):
    """The objective: one file of `learner.loss` each (see the table in `learner.objective`)."""

    degrpo = "degrpo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"


class Old(Enum):
    """The log-probs in the denominator of the clipped ratio (see `learner.loss.surrogate`)."""

    learner = "learner"  # the learner's own before the batch's first optimizer step
    sampler = "sampler"  # the behavior log-probs


class Importance(Enum):
    """What happens to a token's importance weight, pi_old (learner) / mu (sampler), above its cap."""

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
    """What happens to running sequences when a sampler loads new weights."""

    keep = "keep"  # they continue with the keys and values of the old weights
    recompute = "recompute"  # they continue, with keys and values recomputed by the new weights
    drain = "drain"  # they finish first, and none starts until the new weights are loaded


class Device(Enum):
    cpu = "cpu"
    gpu = "gpu"


class FlashAttention(Enum):
    """The learner's flash attention on a GPU, in bfloat16 (the sampler's is chosen by vLLM)."""

    auto = "auto"  # fa3 where the GPU and the installed packages have it, else fa2
    fa2 = "fa2"  # torch's own
    fa3 = "fa3"  # package flash_attn_3, on GPUs of compute capability 9 (H100, H200)


class Placement(Enum):
    """Which GPUs samplers and learner ranks use (see `orchestrator.cluster.placement`)."""

    disaggregated = "disaggregated"  # samplers and learner ranks have their own GPUs
    colocated = "colocated"  # every GPU has a sampler (or a tensor-parallel part of one) and a learner rank, in turns


class Transport(Enum):
    """How weights go from the learner to the samplers (see `rollout.weight_sync.weights.transport`)."""

    auto = "auto"  # chosen by devices and placement
    object_store = "object_store"  # through Ray's shared memory: one copy per host, read by all its workers
    ipc = "ipc"  # one bucket at a time through the memory of the shared device: CUDA IPC; on a CPU, a memory file
    nccl = "nccl"  # broadcast from learner rank 0's GPU to the samplers' GPUs


class Objective(Enum):
    """What the members of a sweep are compared by (see `orchestrator.sweeps.objective`)."""

    validation_reward = "validation_reward"  # mean reward at the last validation
    validation_accuracy = "validation_accuracy"  # accuracy at the last validation
    reward = "reward"  # mean reward of the last ten training steps
    accuracy = "accuracy"  # of the final evaluation, the mode chosen freely, over the mix of levels
    regret = "regret"  # of the final evaluation: reward lost by wrong choices of the mode; less is better

    @property
    def maximized(self) -> bool:
        return self is not Objective.regret


class Prune(Enum):
    """Which members of a sweep are stopped early (see `orchestrator.sweeps.prune`)."""

    none = "none"
    median = "median"  # those whose best value so far is worse than the median of the others' at the same step


class Pairing(Enum):
    """Which questions of a distilled data set have answers in both modes."""

    paired = "paired"  # every question has both, or is left out
    unpaired = "unpaired"  # half of the questions are asked for each mode (arXiv 2510.12680)
    mixed = "mixed"  # every question is asked for both, and keeps what is right


class Keep(Enum):
    """Which distilled answers may be taken."""

    correct = "correct"  # those that the verifier finds right
    all = "all"  # any that is whole, right ones first


class LongAnswer(Enum):
    """Which of several long answers is taken."""

    shortest = "shortest"
    longest = "longest"
    first = "first"
    best = "best"  # highest mean log-prob of its teacher


class OverLength(Enum):
    """What becomes of a distilled answer that reached max_tokens."""

    drop = "drop"  # it is not used
    truncate = "truncate"  # it ends at its last whole line, if its final answer stands before that; nothing is added


class SystemTurn(Enum):
    """What happens to a chat's system turn, if the data are chats."""

    drop = "drop"
    prepend = "prepend"  # put before the question, separated by an empty line
