"""How a warm-up's rows of up to 24,576 tokens are filled and divided over ranks.

In: nothing but `small`. Out: figures. Must not know: models, files.

64 questions a step, as in warmup=openthoughts, each with a long answer (log-normal, median 6,500, sigma 0.85) and a
short one (500, 0.6), cut at 24,576 tokens with their prompt: the lengths that docs/plan.md assumes.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks._figures import figure, say
from benchmarks._learner.setup import LONGEST, QWEN
from learner.data.batch import Sequence, TrainBatch
from learner.data.pack import pack, packing
from learner.loss import Totals

QUESTIONS = 64
ROWS = (24_576, 49_152)  # learner.max_tokens: the least, and on a GPU with memory for twice as much
LENGTHS = ((6500, 0.85), (500, 0.6))  # median and sigma of long and short answers
IMBALANCE, IN_STEP, FILL, MS = 1.02, 1.1, 0.95, 100.0  # goals


def batch_of(rng: np.random.Generator) -> list[Sequence]:
    found = []
    for _ in range(QUESTIONS):
        size = int(np.clip(rng.lognormal(np.log(100), 0.6), 20, 1000))
        prompt = rng.integers(0, 1000, size).astype(np.int32)
        for mode, (median, sigma) in enumerate(LENGTHS):
            n = int(np.clip(rng.lognormal(np.log(median), sigma), 8, LONGEST - size))
            zeros = np.zeros(n, np.float32)
            ids = np.concatenate([prompt, np.zeros(n, np.int32)])
            found.append(Sequence(ids, size, zeros + 1, zeros, 0.0, zeros, mode))
    return found


def in_step(batch: TrainBatch) -> float:
    """FLOPs of the costliest rank of every row, added up, over the mean rank's: from ZeRO 2 on ranks exchange
    gradients after every row, so that each waits for the costliest."""
    costs = np.array([[sum(QWEN.cost(*one) for one in mb.sequences()) for mb in rank] for rank in batch.ranks])
    return float(costs.max(0).sum() / (costs.sum() / len(costs)))


def dealt(sequences: list[Sequence], ranks: int, budget: int) -> tuple[float, float]:
    """Fill and imbalance of the plain way: questions dealt to ranks in turn, their answers put into the first row with
    room."""
    spent, rows = [], []
    for rank in range(ranks):
        mine = [one for i, one in enumerate(sequences) if i // len(LENGTHS) % ranks == rank]
        room: list[int] = []
        for one in mine:
            row = next((i for i, left in enumerate(room) if left >= len(one)), None)
            if row is None:
                room.append(budget)
                row = -1
            room[row] -= len(one)
        spent.append(sum(QWEN.cost(len(s), len(s) - s.prompt_tokens) for s in mine))
        rows.append(len(room))
    return sum(map(len, sequences)) / (max(rows) * ranks * budget), max(spent) / statistics.mean(spent)


def packed(small: bool) -> None:
    for ranks in (4, 8):
        for budget in ROWS:
            measured(ranks, budget, 2 if small else 20)


def measured(ranks: int, budget: int, steps: int) -> None:
    """The figures of rows of `budget` tokens on so many ranks."""
    found: dict[str, list[float]] = {}
    for seed in range(steps):
        sequences = batch_of(np.random.default_rng(seed))
        tokens = sum(map(len, sequences))
        begin = time.perf_counter()
        batch = pack(sequences, Totals(len(sequences), 1, 1), budget, ranks, QWEN.cost, siblings_together=True)
        seconds = time.perf_counter() - begin
        quality, (plain_fill, plain_imbalance) = packing([batch], budget, QWEN.cost), dealt(sequences, ranks, budget)
        least = -(-tokens // (ranks * budget))  # rows of each rank, if answers could be cut
        for name, value in {
            "fill": quality.fill,
            "fill_vs_most": least / len(batch.ranks[0]),
            "imbalance": quality.imbalance,
            "in_step": in_step(batch),
            "padding": quality.padding,
            "ms": 1000 * seconds,
            "fill_dealt": plain_fill,
            "imbalance_dealt": plain_imbalance,
            "padding_unpacked": 1 - tokens / (len(sequences) * max(map(len, sequences))),
        }.items():
            found.setdefault(name, []).append(value)
    say(f"{ranks} ranks, {budget}: " + ", ".join(f"{k} {min(v):.4g} to {max(v):.4g}" for k, v in found.items()))
    mean = {name: statistics.mean(values) for name, values in found.items()}
    for name, value, unit, goal in (
        ("fill", mean["fill"], "share of the rows' tokens", None),
        ("fill_vs_most", mean["fill_vs_most"], "of what rows of uncut answers could be filled to", FILL),
        ("fill_dealt", mean["fill_dealt"], "share of the rows' tokens, in the order of the data", None),
        ("imbalance", max(found["imbalance"]), "costliest rank over the mean, worst step", IMBALANCE),
        ("imbalance_dealt", mean["imbalance_dealt"], "costliest rank over the mean, in the order of the data", None),
        ("in_step", mean["in_step"], "costliest of every row over the mean rank", IN_STEP),
        ("padding", mean["padding"], "share of attention's cells", None),
        ("padding_unpacked", mean["padding_unpacked"], "share of the cells, one answer a row", None),
        ("ms", statistics.median(found["ms"]), "ms a step", MS),
    ):
        figure(f"warmup_pack_{name}", value, unit, goal, ranks=ranks, rows=budget)
