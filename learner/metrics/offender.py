"""Sequences whose loss or gradient was not finite.

In: a micro-batch and what was computed for it. Out: `NonfiniteSequence`s, small enough to travel to whoever writes
them down. Must not know: files, optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learner.data.batch import MicroBatch

MOST = 16  # offenders kept of an update on one rank


@dataclass(frozen=True, slots=True, eq=False)
class NonfiniteSequence:
    """A sequence with what it was given, for `bad_steps.jsonl`."""

    update: int  # optimizer step, counted from the start of training
    rank: int
    reason: str  # "loss", "gradient" (of the last hidden states), or "step": only the step's gradient as a whole
    token_ids: np.ndarray  # i32[P + T]
    mode: int  # 0 think, 1 short, -1 none
    advantage: float
    smallest_logprob: float  # of its response tokens under the sampler, nats


def nonfinite(mb: MicroBatch, bad: np.ndarray, reason: str, update: int, rank: int) -> list[NonfiniteSequence]:
    """The sequences of a micro-batch that hold a token where `bad`, bool[N], is set."""
    found, start = [], 0
    for length in mb.lengths:
        here = slice(start, start + length)
        start += length
        if bad[here].any():
            at = np.flatnonzero(mb.response[here])
            first = int(at[0]) if len(at) else 0
            behavior = mb.behavior_logprobs[here][at]
            found.append(
                NonfiniteSequence(
                    update=update,
                    rank=rank,
                    reason=reason,
                    token_ids=mb.token_ids[here].astype(np.int32),
                    mode=int(mb.modes[here][first]),
                    advantage=float(mb.advantages[here][first]),
                    smallest_logprob=float(behavior.min()) if len(behavior) else float("nan"),
                )
            )
    return found
