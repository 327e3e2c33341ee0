"""What a run's own metrics say about a plan's assumptions.

In: a run's folder (config.yaml was read by the caller), its metrics.jsonl. Out: `Correction`: lengths and assumptions
under which its own simulation takes as long as it took, and what was changed, in words. Must not know: where the run
is planned to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import Config, Device
from orchestrator.base.record import readable
from orchestrator.plan.formulas import Assumptions
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.layouts import Layout
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.memory import LEARNER_PROCESS, rank_memory
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.pipeline import Simulated, simulate
from orchestrator.report.read import records
from rollout.base.errors import BadInput

PARTS = ("rollout", "reward", "learner", "push")
KEYS = {"rollout": "seconds/rollout", "reward": "seconds/reward", "learner": "seconds/learner",
        "push": "weight_sync/seconds"}  # fmt: skip
ROUNDS = 4  # parts overlap, so that factors are found by turns


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over a run's steps, the first ones left out. Seconds that the loop waited; None: not recorded."""

    steps: int
    step: float
    parts: Mapping[str, float]
    sampled: float | None  # engine-seconds of sampling
    tokens: float  # response tokens of an answer
    think: float | None
    short: float | None
    think_rate: float
    learnt: float  # share of groups that the learner saw
    memory: float | None  # bytes, the learner's highest peak


@dataclass(frozen=True, slots=True)
class Correction:
    lengths: Lengths
    given: Assumptions
    said: tuple[str, ...]
    measured: Measured
    before: Simulated  # the run as the uncorrected formulas see it, with its own lengths
    after: Simulated


def read(folder: Path, conf: Config) -> Measured:
    """Raises BadInput for a run without steps."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise BadInput(
            f"{folder} has no metrics.jsonl: the run has not reached its first step, so nothing to correct by"
        )
    rows = [row for row in records(path) if row.get("seconds/step")]
    skip = min(1 + conf.run.max_staleness, len(rows) - 1)
    if not rows:
        raise BadInput(f"{path} holds no training step yet, so nothing to correct by")
    rows = rows[skip:]

    def median(key: str) -> float | None:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        return float(np.median(values)) if values else None

    def mean(key: str) -> float | None:
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        return float(np.mean(values)) if values else None

    step, busy = median("seconds/step") or 0.0, median("busy/rollout")
    gaps = np.diff([row["time"] for row in rows if isinstance(row.get("time"), int | float)])
    if len(gaps):  # what is between two steps counts as well
        step = max(step, float(np.median(gaps)))
    peaks = [value for row in rows for key, value in row.items() if key.startswith("learner/memory_gib/") and value]
    return Measured(
        len(rows),
        step,
        {name: median(key) or 0.0 for name, key in KEYS.items()},
        None if busy is None else busy * step * conf.rollout.workers,
        mean("tokens/mean") or 0.0,
        mean("tokens/think"),
        mean("tokens/short"),
        mean("think_rate/all") or 0.0,
        1.0 - (mean("groups/dropped_share") or 0.0),
        max(peaks) * 2**30 if peaks else None,
    )


def corrected(conf: Config, measured: Measured, model: ModelShape, gpu: Hardware, given: Assumptions) -> Correction:
    """conf: the run's own."""
    layout = Layout.of(conf)
    assumed = Lengths.of(conf)
    lengths = replace(assumed.with_means(measured.think, measured.short, measured.think_rate), learnt=measured.learnt)
    before = found = simulate(layout, conf, model, gpu, lengths, given)
    first = given
    for _ in range(ROUNDS):
        # what engines sampled, if it is known; else what the loop waited for them
        seen, wanted = (
            (found.sampled, measured.sampled) if measured.sampled else (found.rollout, measured.parts["rollout"])
        )
        given = replace(
            given,
            sampling=_times(given.sampling, wanted, seen),
            learning=_times(
                given.learning, measured.parts["learner"] - (found.learner - found.learning), found.learning
            ),
            push=_times(given.push, measured.parts["push"], found.push) if not conf.run.max_staleness else given.push,
            reward_s=_times(given.reward_s, measured.parts["reward"], found.reward),
        )
        found = simulate(layout, conf, model, gpu, lengths, given)
    given = replace(given, rest_s=max(measured.step - found.seconds, 0.0))
    after = simulate(layout, conf, model, gpu, lengths, given)
    factors = {"sampling": given.sampling, "learning": given.learning, "weight sync": given.push}
    said = [
        f"lengths: {measured.tokens:,.0f} tokens an answer, think rate {measured.think_rate:.2f} "
        f"(assumed {_mean(assumed):,.0f} and {assumed.think_rate:.2f}); the learner sees {measured.learnt:.0%} of the "
        "groups (assumed 100%)",
        *(f"{name}: {factor:.2f} times as long as the formulas say" for name, factor in factors.items() if factor != 1),
        f"grading: {1e3 * given.reward_s:.3g} ms an answer (assumed {1e3 * first.reward_s:.3g})",
        f"the rest of a step: {given.rest_s:.3g} s that no part explains",
        *_memory(conf, model, measured),
        f"its own step: {measured.step:.3g} s measured over {measured.steps} steps, {before.seconds:.3g} s by the "
        f"formulas alone, {after.seconds:.3g} s with these corrections",
    ]
    return Correction(lengths, given, tuple(said), measured, before, after)


def _memory(conf: Config, model: ModelShape, measured: Measured) -> list[str]:
    """What the plan's learner is to be compared with; nothing is corrected by it, since rows are seldom full."""
    if measured.memory is None:
        return []
    where = "resident" if conf.learner.device is Device.cpu else "allocated"
    planned = rank_memory(conf, model).peak + (LEARNER_PROCESS if conf.learner.device is Device.cpu else 0)
    return [
        f"memory: at most {measured.memory / 1e9:.2f} GB {where} by a learner rank, {planned / 1e9:.2f} planned for a "
        f"row of learner.max_tokens={conf.learner.max_tokens}; not corrected"
    ]


def _mean(lengths: Lengths) -> float:
    think, short = lengths.means()
    return lengths.think_rate * think + (1 - lengths.think_rate) * short


def _times(factor: float, wanted: float | None, found: float) -> float:
    """The factor that would have made `found` what was wanted; unchanged where either is nothing."""
    return factor * min(max(wanted / found, 1e-3), 1e3) if wanted is not None and wanted > 0 < found else factor


def devices(folder: Path) -> list[Any]:
    """The GPUs that the run recorded."""
    hardware = readable(folder / "provenance.json").get("hardware")
    return list(hardware.get("gpus") or []) if isinstance(hardware, dict) else []
