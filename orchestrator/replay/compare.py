"""Compares what a replay gave with what was recorded.

In: trajectories and reports, recorded and new. Out: how many are equal bit for bit, where they first differ, by how
much. Must not know: files, how either came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from learner.metrics.report import StepReport
from rollout.trajectory import Trajectory

# of the machine and of earlier steps
NOT_COMPARED = {"loss_by_mode", "seconds", "memory", "peak", "efficiency", "nonfinite", "bad_in_a_row"}
FLOOR = 1e-2  # differences of smaller figures are relative to this: sums near zero are rounding


def compare_trajectories(pairs: Sequence[tuple[Trajectory, Trajectory | None]]) -> tuple[int, str | None, float]:
    """(number equal bit for bit, where the first difference is, largest difference of log-probs in nats).

    pairs: recorded, sampled again (None: not sampled). Log-probs are compared before the first token that differs.
    """
    equal, first, largest = 0, None, 0.0
    for one, again in pairs:
        name = f"{one.prompt.uid}, sibling {one.sibling}"
        if again is None:
            first = first or f"{name}: not sampled"
            continue
        size = min(len(one.token_ids), len(again.token_ids))
        other = np.flatnonzero(one.token_ids[:size] != again.token_ids[:size])
        same = int(other[0]) if len(other) else size  # tokens before the first that differs
        recorded, now = one.behavior_logprobs[:same], again.behavior_logprobs[:same]
        apart = np.flatnonzero(recorded != now)
        if same:
            largest = max(largest, float(np.abs(recorded.astype(np.float64) - now).max()))
        if len(apart):
            t = int(apart[0])
            difference = f"{name}, token {t}: log-prob {float(now[t])!r}, recorded {float(recorded[t])!r}"
        elif same < max(len(one.token_ids), len(again.token_ids)):
            ids = [int(t.token_ids[same]) if same < len(t.token_ids) else "nothing" for t in (again, one)]
            difference = f"{name}, token {same}: id {ids[0]}, recorded {ids[1]}"
        elif one.finish is not again.finish:
            difference = f"{name}: finish {again.finish.value}, recorded {one.finish.value}"
        else:
            equal += 1
            continue
        first = first or difference
    return equal, first, largest


def compare_reports(recorded: StepReport | None, now: StepReport | None) -> dict[str, dict[str, float]]:
    """{figure: {"recorded", "now", "relative"}}; relative is 0 only for equal ones (NaN equals NaN)."""
    if recorded is None or now is None:
        learnt = {"recorded": float(recorded is not None), "now": float(now is not None)}
        return {"learnt": {**learnt, "relative": abs(learnt["recorded"] - learnt["now"])}}
    found = {}
    was, now_is = _figures(recorded), _figures(now)
    # the loss is the sum of parts that cancel: its rounding is relative to the largest of them
    parts = [abs(value) for name, value in was.items() if name.startswith("loss")]
    loss = max((part for part in parts if part == part), default=0.0)  # NaN without a reference, or a mode
    for name in was | now_is:
        one, other = was.get(name, math.nan), now_is.get(name, math.nan)
        floor = max(loss, FLOOR) if name.startswith("loss") else FLOOR
        found[name] = {"recorded": one, "now": other, "relative": relative(one, other, floor)}
    return found


def _figures(report: StepReport) -> dict[str, float]:
    plain = {f.name: getattr(report, f.name) for f in fields(StepReport) if f.name not in NOT_COMPARED}
    return plain | {f"loss_{mode}": loss for mode, loss in report.loss_by_mode.items()}


def relative(one: float, other: float, floor: float = FLOOR) -> float:
    if one == other or (one != one and other != other):
        return 0.0
    if not (np.isfinite(one) and np.isfinite(other)):
        return float("inf")
    return abs(one - other) / max(abs(one), abs(other), floor)
