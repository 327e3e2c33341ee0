"""Memory of a sampler's and a learner's GPU, phase by phase, and what to change where it does not fit.

In: a configuration, a model's shape, a GPU, the most tokens that one engine's sequences hold. Out: `GpuMemory`s, host
memory, findings in words. Must not know: torch, vLLM, seconds. The learner's part is `learner.metrics.memory_plan`.

A sampler's engine takes rollout.gpu_memory_utilization of its GPU (vLLM measures what it needs and gives the rest to
the cache); with T = rollout.tensor_parallel GPUs each holds (bytes)

    weights      W / T
    activations  of the largest step, t = max(rollout.max_num_batched_tokens, rollout.max_model_len) tokens, in the
                 model's dtype: t x (4 hidden + (heads + 2 kv_heads) D / T + 3 ffn / T), and the logits of
                 rollout.max_num_seqs sequences in that dtype and twice in float32 (vLLM's sampler)
    context      0.8e9: CUDA's context, cuBLAS and NCCL
    cache        what remains: blocks of 16 tokens, kv bytes / T each

    graphs       0.6e9 beside that, unless rollout.enforce_eager

A learner's rank takes the peak of its plan and 2e9 (CUDA's context, NCCL, fragmentation). Colocated, a process whose
tensors were moved to the host keeps 1.5e9 of its GPU (docs/gpu.md: 1 to 2 GB, an assumption). On a CPU an engine takes
rollout.kv_cache_gib for its cache, in blocks of 128 tokens, and a rank what its plan says; the engine's weights
are there three times (the mapped file, the parameters, oneDNN's packed copy), and the processes take SAMPLER_PROCESS
and LEARNER_PROCESS besides (docs/plan.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conf.check import check
from conf.chosen import saves_beside
from conf.errors import BadConfig
from conf.schema import Config, LearnerConf
from learner.metrics.memory_plan import BYTES, RankMemory, learner_memory
from orchestrator.plan.hardware import GIB, Hardware
from orchestrator.plan.layouts import Layout, overrides, with_settings
from orchestrator.plan.model_shape import ModelShape

SAMPLER_CONTEXT, GRAPHS, LEARNER_CONTEXT, LEFT = 0.8e9, 0.6e9, 2e9, 1.5e9
SAMPLER_PROCESS, LEARNER_PROCESS = 0.98e9, 0.63e9  # resident, on a CPU: Python, its libraries and their buffers
BLOCK, CPU_BLOCK = 16, 128  # tokens: vLLM's


@dataclass(frozen=True, slots=True)
class Phase:
    """What is on one GPU at a time, bytes by item."""

    name: str
    items: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.items.values())


@dataclass(frozen=True, slots=True)
class GpuMemory:
    kind: str  # which GPUs these are
    phases: tuple[Phase, ...]
    limit: float  # bytes; 0: no GPU, the host's memory

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


@dataclass(frozen=True, slots=True)
class Memory:
    gpus: tuple[GpuMemory, ...]
    host: float  # bytes in host memory, of all learner ranks together
    cache_tokens: int  # that one engine's cache holds
    findings: tuple[str, ...]  # why it does not fit and what to change; empty: it fits
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.findings


def memory(conf: Config, model: ModelShape, gpu: Hardware, context: int) -> Memory:
    """context: tokens that the sequences of one engine hold at most, as simulated."""
    layout = Layout.of(conf)
    rank = rank_memory(conf, model)
    engine = engine_items(conf, model, gpu)
    tokens = cache_tokens(engine["cache"], conf, model, gpu)
    findings, notes = list(_cache_findings(conf, model, gpu, tokens)), []
    if context > tokens > 0:
        share = tokens / context
        notes.append(
            f"the sequences of one engine come to hold {context:,} tokens and its cache {tokens:,}: vLLM will put some "
            f"back and compute them again (lower rollout.max_num_seqs={conf.rollout.max_num_seqs} to about "
            f"{max(1, int(conf.rollout.max_num_seqs * share))}, or use more samplers)"
        )
    if gpu.gpu and conf.rollout.num_gpus * conf.learner.num_gpus < 1:
        notes.append("rollout.num_gpus or learner.num_gpus below 1: counted as a whole GPU each")
    if conf.model.lora.rank:
        notes.append("model.lora.rank: the learner is counted as if all weights were trained, so it takes less")
    learning = {name: float(size) for name, size in rank.items.items() if name not in ("layer", "head")}
    learning["a layer's or the head's pass"] = float(max(rank.items["layer"], rank.items["head"]))
    learning["context" if gpu.gpu else "process"] = LEARNER_CONTEXT if gpu.gpu else LEARNER_PROCESS
    host = float(rank.host * layout.ranks + rank.copies * saves_beside(conf.run))
    if not gpu.gpu:
        whole = (
            GpuMemory("a rollout worker", (Phase("sampling", engine),), 0.0),
            GpuMemory("a learner rank", (Phase("learning", learning),), 0.0),
        )
        return Memory(whole, host, tokens, tuple(findings), tuple(notes))
    if layout.shared:
        host += layout.ranks * sum(rank.items[name] for name in ("weights", "reference", "optimizer"))
        sharing = {"weights of the learner": learning["weights"] + learning["gathered"]}
        sharing |= {
            "weights of the sampler": engine["weights"],
            "buckets": 2 * conf.learner.weight_sync_bucket_mib * 2**20,
        }
        phases = (
            Phase("sampling", {**engine, "the learner's process": LEFT}),
            Phase("weight sync", {**sharing, "both processes": LEFT + LEARNER_CONTEXT}),
            Phase("learning", {**learning, "the sampler's process": LEFT}),
        )
        every: tuple[GpuMemory, ...] = (GpuMemory("every GPU", phases, gpu.memory),)
    else:
        every = (
            GpuMemory("a sampler's GPU", (Phase("sampling", engine),), gpu.memory),
            GpuMemory("a learner's GPU", (Phase("learning", learning),), gpu.memory),
        )
    for one in every:
        for phase in one.phases:
            if phase.total > gpu.memory:
                findings.append(_too_much(phase, conf, model, gpu, layout))
    return Memory(every, host, tokens, tuple(findings), tuple(notes))


def rank_memory(conf: Config, model: ModelShape) -> RankMemory:
    return learner_memory(
        model.config, conf.learner, conf.model.dtype, conf.model.head_dtype, conf.algorithm.kl > 0
    )  # fmt: skip


def engine_items(conf: Config, model: ModelShape, gpu: Hardware) -> dict[str, float]:
    rollout, shape = conf.rollout, model.shape
    parts, each = rollout.tensor_parallel, BYTES[model.dtype]
    step = max(rollout.max_num_batched_tokens, rollout.max_model_len)
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    logits = rollout.max_num_seqs * shape.vocab * (each + 8)
    activations = float(step * each * (4 * shape.hidden + (heads + 3 * shape.ffn) / parts) + logits)
    weights = model.weight_bytes / parts
    if not gpu.gpu:  # a worker with rollout.tensor_parallel processes, together; a step is as long as its sequences
        short = rollout.max_num_seqs * each * (4 * shape.hidden + heads + 3 * shape.ffn) + logits
        return {
            "weights": float(model.weight_bytes), "their file and packed copy": 2.0 * model.weight_bytes,
            "cache": rollout.kv_cache_gib * GIB, "activations": float(short), "process": SAMPLER_PROCESS * parts,
        }  # fmt: skip
    budget = rollout.gpu_memory_utilization * gpu.memory
    items = {"weights": weights, "activations": activations, "context": SAMPLER_CONTEXT}
    items["cache"] = max(budget - sum(items.values()), 0.0)
    items["graphs"] = 0.0 if rollout.enforce_eager else GRAPHS
    return items


def cache_tokens(cache: float, conf: Config, model: ModelShape, gpu: Hardware) -> int:
    """Tokens in whole blocks."""
    block = BLOCK if gpu.gpu else CPU_BLOCK
    return int(cache // (block * model.kv_bytes / conf.rollout.tensor_parallel)) * block


def _cache_findings(conf: Config, model: ModelShape, gpu: Hardware, tokens: int) -> Iterator[str]:
    rollout = conf.rollout
    if tokens >= rollout.max_model_len:
        return
    parts = rollout.tensor_parallel
    short = (rollout.max_model_len - tokens) * model.kv_bytes / parts
    if not gpu.gpu:
        wanted = rollout.max_model_len * model.kv_bytes / parts / GIB
        yield (
            f"rollout.kv_cache_gib={rollout.kv_cache_gib:g} holds {tokens:,} tokens, less than one sequence of "
            f"rollout.max_model_len={rollout.max_model_len}: set it to {wanted:.2g} or more"
        )
        return
    fixed = sum(size for name, size in engine_items(conf, model, gpu).items() if name not in ("cache", "graphs"))
    share = (fixed + rollout.max_model_len * model.kv_bytes / parts) / gpu.memory
    remedy = f"rollout.gpu_memory_utilization={math.ceil(share * 100) / 100:g} or more"
    if share > 0.95:
        remedy = f"rollout.tensor_parallel={2 * parts}, or a smaller rollout.max_num_batched_tokens or max_model_len"
    yield (
        f"a sampler's cache would hold {tokens:,} tokens, less than one sequence of rollout.max_model_len="
        f"{rollout.max_model_len} ({short / 1e9:.1f} GB short): set {remedy}"
    )


def _too_much(phase: Phase, conf: Config, model: ModelShape, gpu: Hardware, layout: Layout) -> str:
    text = f"{phase.name} takes {phase.total / 1e9:.1f} GB of {gpu.memory / 1e9:.1f}"
    if phase.name == "sampling":
        spare = (
            phase.total - phase.items["cache"] + conf.rollout.max_model_len * model.kv_bytes / layout.tensor_parallel
        )
        room = gpu.memory - (phase.total - conf.rollout.gpu_memory_utilization * gpu.memory)
        share = math.floor(100 * room / gpu.memory) / 100
        if spare < gpu.memory and share > 0:
            return f"{text}: set rollout.gpu_memory_utilization={share:g}"
        return f"{text}: set rollout.tensor_parallel={2 * layout.tensor_parallel}"
    others = phase.total - rank_memory(conf, model).peak if phase.name == "learning" else phase.total
    for changes in remedies(conf.learner):
        try:
            check(changed := with_settings(conf, changes))
        except BadConfig:
            continue
        total = rank_memory(changed, model).peak + others
        if phase.name == "learning" and total < gpu.memory:
            return f"{text}: {' '.join(overrides(changes))} makes it {total / 1e9:.1f} GB"
    return f"{text}, whatever is partitioned or offloaded: use more learner ranks, or GPUs with more memory"


def remedies(conf: LearnerConf) -> Iterator[dict[str, Any]]:
    """Changes that save a rank memory, those that cost least first, and all together."""
    stage = {"learner.zero_stage": 3 if conf.ranks > 1 else 2}
    single: list[dict[str, Any]] = [
        {"learner.gradient_checkpointing": True},
        {"learner.offload_reference": True},
        stage,
        {"learner.zero_stage": max(conf.zero_stage, 2), "learner.offload_optimizer": True},
        {"learner.zero_stage": 3, "learner.offload_optimizer": True, "learner.offload_parameters": True},
    ]
    together: dict[str, Any] = {}
    for changes in single:
        yield _new(conf, changes)
        together |= changes
        yield _new(conf, together)


def _new(conf: LearnerConf, changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if getattr(conf, key.partition(".")[2]) != value}
