"""Spans and windows of time -> who worked for which share of it, and how far a step is from the slower of its parts.

In: spans of actors, the windows of the training steps. Out: seconds, shares, one sentence. Must not know: files, Ray.

What counts. A rollout worker works while it samples, a reward actor while it grades, a learner rank while it updates
(old and reference log-probs included). Loading, publishing and saving weights keep an actor from its work: they are
drawn and listed, and are not work. Only time inside training steps counts: a validation, a checkpoint or an agreement
check between two steps is in no window, and what was sampled ahead meanwhile counts neither as work nor as time.

`pipeline/step_vs_max` is the time of the steps over the work of the busiest rollout worker or learner rank in the same
time: 1 says that one of them never paused, so that nothing but making that one faster makes steps shorter. It is the
inverse of the largest share, so it cannot be below 1. Batches overlap: what an engine samples during a step belongs
mostly to later batches, and two batches share its steps, so "the sampling seconds of a batch" would count seconds
twice; work inside the window does not. In a single step it moves with what happened to be sampled ahead, so it is the
totals over many steps that say how good the pipeline is. Two actors that share a core or a GPU slow each other, and
their seconds grow with it: only with a core or a GPU each does 1 mean what the parts would take alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.base.observer import Record
from orchestrator.tracking.numbers import percent
from rollout.base.spans import ASLEEP, NO_PROMPTS, NO_WEIGHTS, Span

Interval = tuple[float, float]  # begin, end, seconds

TITLES = {"driver": "driver", "rollout": "rollout worker", "reward": "reward actor", "learner": "learner rank"}
WORK = {"rollout": "sampling", "reward": "grading", "learner": "learning"}  # by kind of actor
STAGES = ("rollout", "learner")  # those that run at the same time when batches are asked for ahead


@dataclass(frozen=True, slots=True)
class Actor:
    kind: str  # of TITLES
    index: int = 0

    @property
    def name(self) -> str:
        return TITLES[self.kind] + ("" if self == DRIVER else f" {self.index}")


DRIVER = Actor("driver")


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as disjoint intervals in order; touching ones become one, empty ones go."""
    merged: list[Interval] = []
    for begin, end in sorted(one for one in intervals if one[1] > one[0]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def covered(intervals: Iterable[Interval], windows: Sequence[Interval]) -> list[float]:
    """Of each window, the seconds in which at least one of the intervals lies."""
    disjoint = union(intervals)
    if not disjoint or not windows:
        return [0.0] * len(windows)
    zero = disjoint[0][0]  # small numbers are exact ones
    edges = np.array(disjoint).ravel() - zero
    before = np.concatenate([[0.0], np.cumsum(np.diff(edges) * (np.arange(len(edges) - 1) % 2 == 0))])
    begins, ends = np.array(windows).T - zero
    return [float(one) for one in np.interp(ends, edges, before) - np.interp(begins, edges, before)]


def by_kind(spans: Iterable[Span], windows: Sequence[Interval]) -> dict[str, float]:
    """Seconds of each kind of span inside the windows, which do not overlap."""
    found: dict[str, list[Interval]] = {}
    for span in spans:
        found.setdefault(span.kind, []).append((span.begin, span.end))
    return {kind: sum(covered(intervals, windows)) for kind, intervals in found.items()}


def figures(wall: float, seconds: Mapping[Actor, Mapping[str, float]]) -> Record:
    """wall: seconds of the windows; seconds: of each actor inside them, by kind of span. None where nothing is known.

    `busy/<kind>` is the mean over the actors of that kind.
    """
    record: Record = {}
    for kind, work in WORK.items():
        shares = [spent.get(work, 0.0) / wall for actor, spent in seconds.items() if actor.kind == kind and wall > 0]
        record[f"busy/{kind}"] = sum(shares) / len(shares) if shares else None
    most = max((spent.get(WORK[a.kind], 0.0) for a, spent in seconds.items() if a.kind in STAGES), default=0.0)
    record["pipeline/step_vs_max"] = wall / most if most > 0 else None
    return record


def per_worker(wall: float, seconds: Mapping[Actor, Mapping[str, float]]) -> Record:
    """The share of the time that each rollout worker sampled, why it did nothing for the rest (seconds), and the
    seconds that the slowest rank and worker spent on weights; arguments as of `figures`.

    A worker that does nothing else waits for prompts.
    """
    record: Record = {}
    for actor, spent in seconds.items():
        if actor.kind != "rollout":
            continue
        named, idle = f"worker/{actor.index}", {"weights": spent.get(NO_WEIGHTS, 0.0), "asleep": spent.get(ASLEEP, 0.0)}
        record[f"busy/rollout/{named}"] = spent.get(WORK["rollout"], 0.0) / wall if wall > 0 else None
        idle["prompts"] = max(0.0, wall - sum(s for kind, s in spent.items() if kind != NO_PROMPTS))
        record |= {f"rollout/idle_seconds/{reason}/{named}": s for reason, s in idle.items()}
    for kind, work, key in (("learner", "publishing", "publish"), ("rollout", "loading weights", "load")):
        most = [spent.get(work, 0.0) for actor, spent in seconds.items() if actor.kind == kind]
        record[f"weight_sync/{key}_seconds"] = max(most, default=None)
    return record


def headline(record: Mapping[str, float | int | None]) -> str:
    """Example: "rollout worked 93 %, learner 71 % of the time; a step took 1.06 × max(sampling, learning)"."""
    shares = [(kind, record.get(f"busy/{kind}")) for kind in ("rollout", "learner", "reward")]
    known = [f"{kind} {percent(share)}" for kind, share in shares if share is not None]
    if not known:
        return ""
    first, _, rest = ", ".join(known).partition(" ")
    ratio = record.get("pipeline/step_vs_max")
    return f"{first} worked {rest} of the time" + (
        "" if ratio is None else f"; a step took {ratio:.2f} × max(sampling, learning)"
    )
