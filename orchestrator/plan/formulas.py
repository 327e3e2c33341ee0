"""Seconds of every part of a step, by formulas: the one place where assumptions about time are.

In: a model's shape, a GPU, a `Recipe`, `Assumptions`. Out: `Costs` for the simulated pipeline. Must not know: lengths,
placements to choose from, clocks. Nothing here was measured on a GPU; docs/plan.md compares it with published figures.

W: bytes of the weights; P: parameters; n: running sequences; T: rollout.tensor_parallel; R: learner ranks.

    engine step   max(read bytes / T / (read_share x bandwidth), 2 P n / T / (decode_share x FLOP/s))
                  + kv bytes x context tokens / T / (read_share x bandwidth)
                  + host_step_s + host_sequence_s x n
                  + for T > 1, per layer two all-reduces: reduce_s + 2 (T - 1) / T x n hidden bytes / link, each
    prefill       2 P / T / (prefill_share x FLOP/s) a token, of prompts and of interrupted answers
    update        passes x FLOPs of the forward pass (`learner.data.flops`) / R / (learner_share x FLOP/s), the rank
                  with the longest sequence at least. passes: 3 (forward, backward), 1 more with checkpointing, 1 for
                  the KL's reference, and old log-probs of all optimizer steps but the first. For each micro-batch, and
                  once for each optimizer step, W / link + 10 us x R (ZeRO-3 gathers twice more); fixed_update_s for
                  each optimizer step
    push          load_s + W / broadcast (150 GB/s in a host, 25 between hosts); through the object store W / 4 GB/s to
                  the host's memory, then W / 2 GB/s for each doubling of the hosts that hold a copy
    hand-over     colocated: a rank's weights, reference and part of the optimizer (12 bytes a parameter), 25 GB/s in
                  each direction (PCIe 5.0 has 64, and a host's GPUs share its memory); vLLM: 1 s to unmap its memory,
                  0.5 s to map the weights', 1 s to map the cache's
    reward        15 ms an answer in each grading process
    driver        48 us a trajectory, 34 ns a token and 50 bytes a token through Ray at 2 GB/s, 80 ns a sequence and
                  rank to balance, 30 ns a prompt and worker to spread; measured on a 2 GHz core

The shares of a data sheet's figures: 70 % of the bandwidth (what a stream over HBM reaches is 80 to 90), 60 % of the
peak in decoding with large batches, 40 % in prefill and learning (Megatron-LM reports 40 to 52 % MFU for dense models,
arXiv 2104.04473; RL's packed rows of one sequence fewer).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from conf.choices import Old, Transport
from conf.schema import Config
from orchestrator.plan.costs import Batch, Costs, EngineCosts
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.model_shape import ModelShape
from rollout.weight_sync.weights import transport

HOST = 8  # GPUs of a host
BETWEEN_HOSTS = 100e9  # bytes/s of a collective call across hosts, for each GPU
PUSH, PUSH_BETWEEN_HOSTS = 150e9, 25e9
STORE_PUBLISH, STORE_COPY = 4e9, 2e9
LOAD_S, CALL_S = 0.4, 0.005
RANK_S, REDUCE_S = 10e-6, 10e-6
PCIE, SLEEP_S, MAP_WEIGHTS_S, MAP_CACHE_S = 25e9, 1.0, 0.5, 1.0
REWARD_S = 0.015


@dataclass(frozen=True, slots=True)
class Driver:
    """Seconds of the driver's process."""

    trajectory_s: float = 48e-6  # without what its tokens cost
    token_s: float = 34e-9
    balance_s: float = 80e-9  # per sequence and rank
    spread_s: float = 30e-9  # per prompt and worker
    transfer_s: float = 50 / 2e9  # per token


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What of a data sheet is reached, fixed costs, and factors by which a run's own metrics correct them."""

    read_share: float = 0.7
    decode_share: float = 0.6
    prefill_share: float = 0.4
    learner_share: float = 0.4
    host_step_s: float = 4e-3  # of the engine's process, as without rollout.async_scheduling
    host_sequence_s: float = 20e-6
    fixed_update_s: float = 0.0
    shared_prompts: bool = False  # siblings in a row share their prompt: not counted on GPUs, where rows are long
    load_s: float = LOAD_S
    reward_s: float = REWARD_S  # an answer
    driver: Driver = Driver()
    sampling: float = 1.0  # factors
    learning: float = 1.0
    push: float = 1.0
    hand_over: float = 1.0
    rest_s: float = 0.0  # of a step, for what nothing else explains


ON_A_CPU = Assumptions(
    host_step_s=3e-3, host_sequence_s=80e-6, fixed_update_s=0.02, shared_prompts=True, load_s=0.02, reward_s=40e-6
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What of a configuration decides how long a step takes."""

    prompts: int
    group: int
    optimizer_steps: int
    passes: float  # forward passes' worth of FLOPs
    max_tokens: int  # of a micro-batch
    max_num_seqs: int
    zero_stage: int
    sequence_parallel: int
    tensor_parallel: int
    grading: int  # processes
    reference: bool
    transport: Transport

    @classmethod
    def of(cls, conf: Config) -> Recipe:
        rollout, learner, algorithm = conf.rollout, conf.learner, conf.algorithm
        steps, reference = algorithm.optimizer_steps, algorithm.kl > 0
        old = (steps - 1) / steps if algorithm.old is Old.learner else 0.0
        return cls(
            rollout.prompts_per_step,
            rollout.group_size,
            steps,
            3 + learner.gradient_checkpointing + reference + old,
            learner.max_tokens,
            rollout.max_num_seqs,
            learner.zero_stage,
            learner.sequence_parallel,
            rollout.tensor_parallel,
            conf.reward.workers * conf.reward.processes,
            reference,
            transport(conf),
        )


def engine_costs(model: ModelShape, gpu: Hardware, recipe: Recipe, given: Assumptions) -> EngineCosts:
    parts, shape = recipe.tensor_parallel, model.shape
    read_s = 1 / parts / (given.read_share * gpu.bandwidth)  # a byte
    flop_s = 1 / parts / (given.decode_share * gpu.flops)
    row = model.weight_bytes / model.parameters * shape.hidden  # bytes of a token's states

    def step(n: int) -> float:
        reduced = REDUCE_S + 2 * (parts - 1) / parts * n * row / gpu.link if parts > 1 else 0.0
        device = max(model.read_bytes * read_s, 2 * model.parameters * n * flop_s) + 2 * shape.layers * reduced
        return given.sampling * (given.host_step_s + given.host_sequence_s * n + device)

    return EngineCosts(
        tuple(step(n) for n in range(recipe.max_num_seqs + 1)),
        context_s=given.sampling * model.kv_bytes * read_s,
        prefill_s=given.sampling * 2 * model.parameters / parts / (given.prefill_share * gpu.flops),
    )


def learner_seconds(
    model: ModelShape, gpu: Hardware, recipe: Recipe, ranks: int, given: Assumptions
) -> Callable[[Batch], float]:
    """Of one update: all its optimizer steps."""
    link = gpu.link if ranks <= HOST else min(gpu.link, BETWEEN_HOSTS)
    link_s = model.weight_bytes / link + RANK_S * ranks if ranks > 1 else 0.0
    each_row = 3 if recipe.zero_stage == 3 else 1

    def seconds(batch: Batch) -> float:
        prompts, responses = batch.sequences()
        total = 0.0
        for part in np.array_split(np.arange(len(prompts)), recipe.optimizer_steps):
            if not len(part):
                continue
            mine = responses[part]
            tokens = mine + prompts[part] // (recipe.group if given.shared_prompts else 1)
            flops = np.array([float(model.shape.cost(*one)) for one in zip(tokens.tolist(), mine.tolist())])
            rows = max(1, math.ceil(tokens.sum() / (ranks / recipe.sequence_parallel) / recipe.max_tokens))
            slowest = max(flops.sum() / ranks, flops.max() / recipe.sequence_parallel)
            total += recipe.passes * slowest / (given.learner_share * gpu.flops)
            total += (rows * each_row + 1) * link_s + given.fixed_update_s
        return given.learning * total

    return seconds


def costs(
    model: ModelShape,
    gpu: Hardware,
    recipe: Recipe,
    samplers: int,
    ranks: int,
    shared: int = 0,
    given: Assumptions = Assumptions(),
) -> Costs:
    """shared: samplers on the learner's GPUs, which are handed over."""
    driver = given.driver
    gpus = samplers * recipe.tensor_parallel + ranks - shared * recipe.tensor_parallel
    hosts = -(-gpus // HOST) if gpu.gpu else 1
    weights = model.weight_bytes
    publish, transfer, load = 0.0, 0.0, given.load_s
    if recipe.transport is Transport.object_store:
        publish = given.push * weights / STORE_PUBLISH
        transfer = publish + given.push * weights / STORE_COPY * math.ceil(math.log2(hosts))
    else:
        near = hosts == 1 or recipe.transport is Transport.ipc
        load += weights / min(PUSH if near else PUSH_BETWEEN_HOSTS, gpu.link / 2)
    engine = replace(engine_costs(model, gpu, recipe, given), load_s=given.push * load)

    def share(of: float) -> Callable[[Batch], float]:
        return lambda batch: of * (driver.trajectory_s * batch.lengths.size)

    found = Costs(
        engine=engine,
        learner=learner_seconds(model, gpu, recipe, ranks, given),
        ask=lambda batch: share(0.1)(batch) + driver.spread_s * len(batch.prompts) * samplers,
        gather=lambda batch: share(0.3)(batch) + (driver.token_s / 3 + driver.transfer_s * 12 / 50) * batch.tokens,
        reward=lambda batch: given.reward_s * math.ceil(batch.lengths.size / recipe.grading),
        pack=lambda batch: (
            share(0.5)(batch)
            + (driver.token_s * 2 / 3 + driver.transfer_s * 38 / 50) * batch.tokens
            + driver.balance_s * batch.lengths.size * ranks
        ),
        tail=lambda batch: share(0.1)(batch) + given.rest_s,
        call_s=CALL_S,
        publish_s=publish,
        transfer_s=transfer,
    )
    return with_hand_over(found, model, recipe, ranks, given.hand_over) if shared and gpu.gpu else found


def with_hand_over(found: Costs, model: ModelShape, recipe: Recipe, ranks: int, slower: float = 1.0) -> Costs:
    """`found` with what handing the GPUs over takes. slower: times as long as is assumed."""
    weights = model.weight_bytes
    optimizer = weights * recipe.reference + 12 * model.parameters / (ranks if recipe.zero_stage else 1)
    return replace(
        found,
        to_learner_s=slower * (SLEEP_S + (weights + optimizer) / PCIE),
        to_push_s=slower * (MAP_WEIGHTS_S + optimizer / PCIE),
        to_samplers_s=slower * (MAP_CACHE_S + weights / PCIE),
    )


def assumptions(gpu: Hardware) -> Assumptions:
    """Those of GPUs, or of a processor."""
    return Assumptions() if gpu.gpu else ON_A_CPU
