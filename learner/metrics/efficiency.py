"""How well an update used its devices: tokens and FLOPs per second, utilization, packing.

In: the batches of an update, the model's shape, seconds. Out: `Efficiency`. Must not know: engines, how time was
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from learner.data.batch import TrainBatch
from learner.data.flops import Shape, tokens_only, work
from learner.data.pack import packing
from learner.data.shared_prefix import repeated


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Of one update. A rank is a device. None: unknown."""

    tokens_per_s: float  # of one rank; prompts count, padding does not
    tflops: float | None  # model FLOP/s of one rank, in units of 1e12
    mfu: float | None  # model FLOPs over the device's peak
    hfu: float | None  # FLOPs including recomputation over the device's peak
    padding: float  # fraction of empty cells in attention's buckets (none on a GPU, with attention over boundaries)
    fill: float  # tokens over the micro-batches' capacity
    imbalance: float  # cost of the costliest rank over the mean


def efficiency(
    batches: list[TrainBatch],
    shape: Shape | None,
    ranks: int,
    max_tokens: int,
    seconds: float,
    scored: Sequence[int] = (),
    checkpointing: bool = False,
    peak: float | None = None,
    shared: bool = True,
) -> Efficiency:
    """Of an update over `batches` that took `seconds` on `ranks` devices.

    scored: passes without gradient over each of the batches (reference, old log-probs), none if empty; peak: FLOP/s
    of one device; shared: siblings in a row share their prompt.
    """
    packed = packing(batches, max_tokens, shape.cost if shape else tokens_only)
    tokens = sum(batch.tokens for batch in batches)
    speed = model = hardware = None
    if shape:
        done = [
            work(
                shape,
                (one for rank in batch.ranks for mb in rank for one in mb.sequences()),
                passes,
                checkpointing,
                sum(repeated(mb) for rank in batch.ranks for mb in rank) if shared else 0,
            )
            for batch, passes in zip(batches, scored or [0] * len(batches), strict=True)
        ]
        model, hardware = (sum(flops) / seconds / ranks for flops in zip(*((w.model, w.hardware) for w in done)))
        speed = model / 1e12
    return Efficiency(
        tokens_per_s=tokens / seconds / ranks,
        tflops=speed,
        mfu=model / peak if model and peak else None,
        hfu=hardware / peak if hardware and peak else None,
        padding=packed.padding,
        fill=packed.fill,
        imbalance=packed.imbalance,
    )
