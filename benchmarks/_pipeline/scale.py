"""The simulated pipeline on 4, 64 and 1,024 GPUs: assumptions, and the table they lead to.

Nothing here was measured on a GPU. What is assumed, and where it comes from:

- Model: DeepSeek-R1-Distill-Qwen-1.5B (28 layers, hidden 1,536, 2 key-value heads of 128, untied head: 1.78 B
  parameters, 3.55 GB in bf16, 28,672 bytes of cache a token).
- Recipe: 128 prompts x 8, at most 24,576 tokens, two optimizer steps a batch, KL, gradient checkpointing, 26,624
  tokens a micro-batch (conf/experiment/thinkless_1p5b.yaml), 256 sequences an engine (conf/rollout/gpu.yaml), 4 GPUs.
- Lengths: half of the answers think (the warmed-up policy begins near that), log-normal with median 6,500 and sigma
  0.85: mean 8,500 within the cap, 6 % cut off. The model that always thinks takes 5,675 tokens on MATH-500 and 18,063
  on AIME24 (Thinkless, arXiv 2505.13379, table 1), and the training problems lie between. The other half are short:
  median 500, sigma 0.6, mean 600; what remains when thinking answers are taken out of the trained model's means is
  430 (GSM8K: 624 at 13 %, thinking 1,919) and 480 (Minerva Algebra: 1,144 at 26 %, thinking 3,029). Half of the
  logarithm's variance belongs to the prompt, half to the sibling. One kind of prompt: the data set names no levels.
- Everything else by `orchestrator.plan.formulas` on an H100 SXM (3.35 TB/s and 989 TFLOP/s dense bf16), two grading
  processes a GPU. The driver's time per token (columns to trajectories, weights, packing), for balancing over ranks
  (per sequence and rank) and for spreading (per prompt and worker) is measured on this CPU when the table is made; 47
  bytes a token go through Ray at 2 GB/s (12 in, 35 to the learner).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from conf.choices import Dtype, Transport
from orchestrator.plan.costs import Step
from orchestrator.plan.formulas import Assumptions, Driver, Recipe, costs
from orchestrator.plan.hardware import GPUS
from orchestrator.plan.lengths import PROMPT, Lengths
from orchestrator.plan.model_shape import KNOWN, ModelShape
from orchestrator.plan.simulation import Pipeline

GPU = GPUS["h100"]
_NAME = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
MODEL = ModelShape.of(_NAME, "", KNOWN[_NAME], Dtype.bfloat16)
LENGTHS = Lengths()
GROUP, CAP, MAX_TOKENS = 8, LENGTHS.cap, 26624
FREE_CACHE_GB = 60
SETUPS = ((4, 128), (64, 2048), (1024, 32768), (64, 128), (1024, 128), (1024, 2048))  # GPUs, prompts a step


def recipe(prompts: int, gpus: int, transport: Transport = Transport.nccl) -> Recipe:
    """conf/experiment/thinkless_1p5b.yaml's, two grading processes a GPU."""
    return Recipe(prompts, GROUP, 2, 5.5, MAX_TOKENS, 256, 2, 1, 1, 2 * gpus, True, transport)


def measured_driver(per_s: float) -> Driver:
    """per_s: trajectories of 46 tokens a second."""
    from conf.schema import AlgorithmConf
    from learner.data.pack import balanced, pack
    from learner.objective import optimizer_steps
    from reward.group import Group
    from reward.verdict import Outcome, Verdict
    from rollout.mode import Mode
    from rollout.prompt import Prompt
    from rollout.request import RolloutResult

    def control_plane(length: int, groups: int) -> float:
        n, ids = groups * GROUP, np.arange(PROMPT, dtype=np.int32)
        prompts = [Prompt(str(i), "", ids, "1", "bench") for i in range(groups)]
        total = n * length
        columns = (np.zeros(total, np.int32), np.zeros(total, np.float32), np.zeros(total, np.int32))
        kinds = ((Mode.THINK,) * n, np.zeros(n, np.uint8))
        verdict, rewards = Verdict(Outcome.CORRECT, "1", 0.0), np.arange(GROUP, dtype=np.float32)
        begin = time.process_time()
        sampled = RolloutResult(np.full(n, length, np.int32), *columns, *kinds, False, total, 0.0, 0.0)
        rows = [p for p in prompts for _ in range(GROUP)]
        found = [t for t in sampled.trajectories(rows, list(range(GROUP)) * groups) if t is not None]
        judged = [
            Group(p, tuple(found[i * GROUP : (i + 1) * GROUP]), (verdict,) * GROUP, rewards)
            for i, p in enumerate(prompts)
        ]
        for sequences, totals in optimizer_steps(judged, AlgorithmConf(), CAP):
            pack(sequences, totals, MAX_TOKENS, 1)
        return (time.process_time() - begin) / n

    long, short = (min(control_plane(length, 16) for _ in range(3)) for length in (8192, 46))
    token_s = max(long - short, 0.0) / (8192 - 46)
    lengths = np.random.default_rng(0).integers(100, 20000, 2048).tolist()
    begin = time.process_time()
    balanced(lengths, 128)
    balance_s = (time.process_time() - begin) / (2048 * 128)
    loads = list(range(512))
    begin = time.process_time()
    for _ in range(200):
        min(range(len(loads)), key=loads.__getitem__)
    spread_s = (time.process_time() - begin) / (200 * 512)
    return Driver(max(1 / per_s - 46 * token_s, 0.0), token_s, balance_s, spread_s)


@dataclass(frozen=True, slots=True)
class Row:
    gpus: int
    samplers: int
    prompts: int
    staleness: int
    transport: str
    seconds: float
    sampling: float  # share of the samplers' time
    learning: float
    driver: float
    push: float
    cache_gb: float  # most of one engine
    staleness_seen: int
    tokens: float  # response tokens a step
    limit: str


def run(
    gpus: int,
    samplers: int,
    prompts: int,
    staleness: int,
    driver: Driver,
    transport: Transport = Transport.nccl,
) -> Row:
    skip = 2 * staleness + 1
    steps = skip + (2 if prompts > 10000 else 4) + staleness
    ranks = gpus - samplers
    spent = costs(MODEL, GPU, recipe(prompts, gpus, transport), samplers, ranks, given=Assumptions(driver=driver))
    batches = LENGTHS.batches(prompts, GROUP, 1)
    found = Pipeline(spent, samplers, staleness, float(CAP)).simulate(batches, steps)[skip : steps - staleness]
    seconds = mean(found, "seconds")
    parts = {
        name: mean(found, name) / seconds for name in ("rollout", "reward", "learner", "push", "driver", "learning")
    }
    sampling = mean(found, "sampled") / samplers / seconds
    return Row(
        gpus, samplers, prompts, staleness, transport.value, seconds, sampling, parts["learning"], parts["driver"],
        parts["push"], max(step.context for step in found) * MODEL.kv_bytes / 1e9,
        max(step.staleness for step in found), mean(found, "tokens"), limit(parts, sampling),
    )  # fmt: skip


def mean(steps: list[Step], name: str) -> float:
    return float(np.mean([getattr(step, name) for step in steps]))


def limit(parts: dict[str, float], sampling: float) -> str:
    """What a step would have to be quicker at to become shorter."""
    if parts["rollout"] > 0.1:  # the loop waits for answers
        return "sampling" if sampling > 0.8 else "the longest answers"
    return max(("learner", parts["learning"]), ("driver", parts["driver"]), ("reward", parts["reward"]),
               key=lambda one: one[1])[0]  # fmt: skip


def best_split(gpus: int, prompts: int, driver: Driver) -> int:
    """Samplers, in eighths of the GPUs (at least one of each kind), with the shortest step at staleness 1."""
    unit = max(1, gpus // 8)
    tried = [run(gpus, samplers, prompts, 1, driver) for samplers in range(unit, gpus, unit)]
    return min(tried, key=lambda row: row.seconds).samplers


def driver_work(row: Row, driver: Driver) -> str:
    """The driver's seconds of one step, by what they are spent on."""
    answers, ranks = row.prompts * GROUP, row.gpus - row.samplers
    parts = {
        "trajectories": driver.trajectory_s * answers,
        "tokens": driver.token_s * row.tokens,
        f"{59e-9 * row.tokens:.0f} GB through Ray": driver.transfer_s * row.tokens,
        "balancing over ranks": driver.balance_s * answers * ranks,
        "spreading": driver.spread_s * row.prompts * row.samplers,
    }
    return f"{row.gpus:,} GPUs, {answers:,} answers: " + ", ".join(f"{s:.1f} s {name}" for name, s in parts.items())


def table(per_s: float, say: Callable[[str], None], setups: Sequence[tuple[int, int]]) -> str:
    """Markdown."""
    driver = measured_driver(per_s)
    ratio = best_split(64, 2048, driver) / 64 if max(setups)[0] > 4 else 0.0
    lines = [
        "| GPUs (samplers + ranks) | answers a step | s, staleness 0 | s, staleness 1 | gain | s, staleness 4 | "
        "samplers busy | learner busy | driver | tokens/s and GPU | limit (staleness 1) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows, pushes = [], []
    for gpus, prompts in setups:
        samplers = best_split(gpus, prompts, driver) if gpus == 4 else round(ratio * gpus)
        zero, one, four = (run(gpus, samplers, prompts, staleness, driver) for staleness in (0, 1, 4))
        rows += [zero, one, four]
        lines.append(
            f"| {gpus:,} ({samplers:,} + {gpus - samplers:,}) | {prompts * GROUP:,} | {zero.seconds:.0f} | "
            f"{one.seconds:.0f} | {zero.seconds / one.seconds:.2f} | {four.seconds:.0f} | {one.sampling:.0%} | "
            f"{one.learning:.0%} | {one.driver:.0%} | {one.tokens / one.seconds / gpus:,.0f} | {one.limit} |"
        )
        say(f"simulated {gpus:,} GPUs, {prompts * GROUP:,} answers a step")
        if prompts <= 2048:
            others = [run(gpus, samplers, prompts, staleness, driver, Transport.object_store) for staleness in (0, 1)]
            pushes.append(
                f"{gpus:,} GPUs, {prompts * GROUP:,} answers: {zero.seconds:.1f} and {others[0].seconds:.1f} s at "
                f"staleness 0, {one.seconds:.1f} and {others[1].seconds:.1f} s at 1"
            )
    most = max(rows, key=lambda row: row.driver * row.seconds)
    lines += [
        "",
        "Steps with NCCL and with the object store: " + "; ".join(pushes) + ".",
        f"Driver: {per_s:,.0f} trajectories/s; measured here {1e9 * driver.token_s:.0f} ns a token, "
        f"{1e9 * driver.balance_s:.0f} ns to balance a sequence for each rank, {1e9 * driver.spread_s:.0f} ns to "
        f"spread a prompt for each worker. {driver_work(most, driver)}.",
        f"Most cache in one engine: {max(row.cache_gb for row in rows):.0f} GB (of about {FREE_CACHE_GB}; above it "
        "vLLM would put sequences back, which is not simulated).",
    ]
    return "\n".join(lines)
