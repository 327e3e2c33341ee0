"""Which level question number i of a generated stream has.

In: a stream's name, an index, levels and their weights. Out: a level. Must not know: what a question is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

GOLDEN = 0.6180339887498949


def level_at(stream: str, index: int, levels: Sequence[int], weights: Sequence[float]) -> int:
    """Levels follow `weights` evenly: any n consecutive questions contain a level's share to within about one question
    (an additive low-discrepancy sequence), so that a small batch always has its hard questions."""
    place = (random.Random(stream).random() + index * GOLDEN) % 1.0 * sum(weights)
    return next((level for level, end in zip(levels, accumulate(weights)) if place < end), levels[-1])
