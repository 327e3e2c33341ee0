"""sweep.json and sweep.html in a sweep's folder.

In: the sweep's state. Out: both files, and lines that say what was best. Must not know: how members were run.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from orchestrator.base.files import write_json, write_whole
from orchestrator.sweeps.outcome import SEED, Figures, Outcome, outcome
from orchestrator.sweeps.page import render
from orchestrator.sweeps.state import SweepState
from orchestrator.tracking.numbers import number


def write_outcome(state: SweepState) -> list[str]:
    """Write sweep.json and sweep.html. Returns lines that say what was best."""
    found = outcome(state)
    write_json(state.folder / "sweep.json", as_json(found))
    write_whole(state.folder / "sweep.html", render(found))
    for line in found.damaged:
        print(f"{state.folder.parent}/{line}", file=sys.stderr, flush=True)
    if found.best is None:
        return []
    value = number(found.best.objective or 0.0)
    lines = [f"best member: {found.best.run}, {state.objective} {value} ({_said(found.best)})"]
    first = found.groups[0]
    if first.objective and first.objective.count > 1 and len(found.groups) > 1:
        one = first.objective
        interval = f", 95 % interval {number(one.low or 0.0)} to {number(one.high or 0.0)}"
        what = " ".join(f"{key}={value}" for key, value in first.parameters.items())
        lines.append(f"best over {one.count} seeds: {what}: {number(one.mean)}{interval}")
    return lines


def as_json(found: Outcome) -> dict[str, Any]:
    state = found.state
    return {
        "name": state.name,
        "command": state.command,
        "objective": state.objective,
        "direction": "maximize" if state.maximized else "minimize",
        "parameters": list(found.swept),
        "best": asdict(found.best) if found.best else None,
        "groups": [
            {
                "parameters": group.parameters,
                "members": [member.run for member in group.members],
                "objective": asdict(group.objective) if group.objective else None,
                "accuracy": group.mean("accuracy"),
                "tokens": group.mean("tokens"),
                "think_rate": group.mean("think_rate"),
                "on_pareto_front": group in found.front,
            }
            for group in found.groups
        ],
        "members": [asdict(member) for member in found.members],
    }


def _said(member: Figures) -> str:
    parts = member.parameters | ({SEED: member.seed} if member.seed is not None else {})
    return " ".join(f"{key}={value}" for key, value in parts.items()) or "no parameter differs"
