"""What a run prints at its end: its figures, beside goals if it has any, and how to serve the model.

In: a run folder. Out: lines for the console. Must not know: how figures come about (`orchestrator.tracking.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from conf.errors import BadConfig
from conf.seal import unsealed
from orchestrator.base.record import readable
from orchestrator.report.damage import say_damage
from orchestrator.report.read import records
from orchestrator.tracking.numbers import exact_percent, or_dash
from orchestrator.tracking.serving import commands
from orchestrator.tracking.summary import has_goals, interval, summarize_evaluation, way_name

WHEN = {"warmup": "before training", "final": "after it"}
MARKS = {True: "met    ", False: "NOT met", None: "not measured"}


def result_lines(folder: Path) -> list[str]:
    """The final figures; empty when the run made no final evaluation."""
    say_damage(folder, ("config.yaml", "evaluation.json", "samples.jsonl"))
    path = folder / "evaluation.json"
    evaluation = readable(path)
    if "final" not in evaluation.get("models", {}):
        return []
    goals = has_goals(read_config(folder))
    summary = summarize_evaluation(evaluation, goals)
    if goals:
        return [f"  {MARKS[c['met']]}  {c['name']}: {c['text']} (goal: {c['goal']})" for c in summary["checks"]]
    lines = [f"  {c['name']}: {c['text']}" for c in summary["checks"] if isinstance(c["value"], float)]
    measured = [_row(model, mode, mix) for model, modes in summary["mix"].items() for mode, mix in modes.items()]
    return [*measured, f"  think rate: {or_dash(exact_percent)(summary['think_rate'])}", *lines]


def _row(model: str, mode: str, mix: Mapping[str, Any]) -> str:
    name = f"{WHEN.get(model, model)}, {way_name(mode)}"
    if mix["accuracy"] is None or mix["tokens"] is None:
        return f"  {name}: not measured"
    spread = interval(mix)
    within = f" (95 %: {100 * spread[0]:.1f} to {100 * spread[1]:.1f} %)" if spread else ""
    return f"  {name}: {exact_percent(mix['accuracy'])} right{within}, {mix['tokens']:.1f} tokens an answer"


def serving_lines(folder: Path) -> list[str]:
    """How to serve the final model and ask it a question of the run's own; empty when there is no model."""
    first = next(records(folder / "samples.jsonl"), {})
    problem = str(first.get("problem", ""))
    if (found := commands(folder, read_config(folder), problem)) is None:
        return []
    return ["to serve the model:", found[0], "to ask it (what it thought, if it did, comes as `reasoning`):", found[1]]


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml as plain objects; empty when there is none. Raises BadConfig when it is damaged."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(unsealed(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfig(f"{path} cannot be read ({' '.join(str(error).split())}): restore it from a copy") from error
    return found if isinstance(found, dict) else {}
