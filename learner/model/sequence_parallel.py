"""One rank's part of a micro-batch under sequence parallelism.

In: a micro-batch, the part's number and the number of parts. Out: the same row, padded to equal parts, with only the
response tokens that this rank's hidden states predict. Must not know: models, process groups.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learner.data.batch import MicroBatch


def shard(mb: MicroBatch, part: int, parts: int) -> MicroBatch:
    """Rank `part` holds tokens [part * n, (part + 1) * n) of the padded row and predicts the tokens one further on.

    The parts' weights add up to the micro-batch's: every response token belongs to exactly one rank. parts = 1: `mb`.
    """
    if parts == 1:
        return mb
    count = len(mb.token_ids)
    padding = -count % parts
    share = (count + padding) // parts
    at = np.arange(count + padding)
    own = (part * share < at) & (at <= (part + 1) * share)

    def padded(values: np.ndarray, fill: np.ndarray | None = None) -> np.ndarray:
        tail = np.zeros(padding, values.dtype) if fill is None else fill
        return np.concatenate([values, tail])

    return replace(
        mb,
        token_ids=padded(mb.token_ids),
        position_ids=padded(mb.position_ids, np.arange(padding, dtype=mb.position_ids.dtype)),
        lengths=mb.lengths + ((padding,) if padding else ()),
        response=padded(mb.response) & own,
        control=padded(mb.control) & own,
        modes=padded(mb.modes),
        weights=padded(mb.weights) * own,
        kl_weights=padded(mb.kl_weights) * own,
        advantages=padded(mb.advantages),
        behavior_logprobs=padded(mb.behavior_logprobs),
    )
