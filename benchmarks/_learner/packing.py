"""How well sequences are packed and balanced over ranks.

In: nothing but `small`. Out: figures. Must not know: models.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from benchmarks._figures import figure
from benchmarks._learner.setup import LONGEST, QWEN
from learner.data.flops import tokens_only
from learner.data.pack import pack, packing


def packed(small: bool) -> None:
    """512 answers, half short, half long with a heavy tail up to 24,576 tokens, over 8 ranks."""
    from learner.data.batch import Sequence
    from learner.loss import Totals

    found: dict[str, list[Any]] = {"": [], "_by_tokens": []}
    for seed in range(1 if small else 5):
        rng = np.random.default_rng(seed)
        short, long = (
            np.clip(rng.lognormal(6.1, 0.6, 512), 40, 3000),
            np.clip(rng.lognormal(8.5, 0.8, 512), 300, LONGEST),
        )
        sequences = []
        for n in np.where(rng.random(512) < 0.5, short, long).astype(int):
            prompt, zeros = int(rng.integers(60, 300)), np.zeros(n, np.float32)
            sequences.append(Sequence(np.zeros(prompt + n, np.int32), prompt, zeros + 1, zeros + 1, 1.0, zeros, 0))
        for name, cost in (("", QWEN.cost), ("_by_tokens", tokens_only)):
            batch = pack(sequences, Totals(512, 1, 1), 26_624, 8, cost)
            found[name].append(packing([batch], 26_624, QWEN.cost))
    for name, goal in (("", 1.02), ("_by_tokens", None)):
        figure(f"pack_imbalance{name}", max(p.imbalance for p in found[name]), "costliest rank over the mean", goal)
    figure("pack_padding", statistics.mean(p.padding for p in found[""]), "share of attention's cells")
    figure("pack_fill", statistics.mean(p.fill for p in found[""]), "share of the rows' tokens")
