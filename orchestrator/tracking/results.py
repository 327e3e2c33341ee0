"""What the end of a run says: its figures, beside goals where it has them, and how to serve the model.

In: a run folder. Out: lines for the console. Must not know: how figures come about (`orchestrator.tracking.summary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.tracking.serving import ask_command, serve_command
from orchestrator.tracking.summary import MODE_NAMES, has_goals, interval, summarize_evaluation

MARKS = {True: "met    ", False: "NOT met", None: "not measured"}


def result_lines(folder: Path) -> list[str]:
    """The final figures; empty when the run made no final evaluation."""
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text()) if path.is_file() else {"models": {}}
    if "final" not in evaluation["models"]:
        return []
    goals = has_goals(read_config(folder))
    summary = summarize_evaluation(evaluation, goals)
    if goals:
        return [f"  {MARKS[c['met']]}  {c['name']}: {c['text']} (goal: {c['goal']})" for c in summary["checks"]]
    lines = [f"  {c['name']}: {c['text']}" for c in summary["checks"] if isinstance(c["value"], float)]
    return [*map(_row, _ways(summary)), f"  think rate: {_share(summary['think_rate'])}", *lines]


def _ways(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    models = {"warmup": "before training", "final": "after it"}
    return [
        (f"{models.get(model, model)}, {MODE_NAMES[way]}", mix)
        for model, ways in summary["mix"].items()
        for way, mix in ways.items()
    ]


def _row(named: tuple[str, Mapping[str, Any]]) -> str:
    name, mix = named
    if mix["accuracy"] is None or mix["tokens"] is None:
        return f"  {name}: not measured"
    spread = interval(mix)
    within = f" (95 %: {100 * spread[0]:.1f} to {100 * spread[1]:.1f} %)" if spread else ""
    return f"  {name}: {_share(mix['accuracy'])} right{within}, {mix['tokens']:.1f} tokens an answer"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def serving_lines(folder: Path) -> list[str]:
    """How to serve the final model and ask it a question of the run's own; empty when there is no model."""
    model = folder / "model"
    if not (model / "config.json").is_file():
        return []
    config = read_config(folder)
    return [
        "to serve the model:",
        serve_command(model, config),
        "to ask it (the answer begins with the mode that it chose):",
        ask_command(model, config, question(folder)),
    ]


def question(folder: Path) -> str:
    """A problem of the run, to ask its model."""
    path = folder / "samples.jsonl"
    first = path.read_text().partition("\n")[0] if path.is_file() else ""
    return str(json.loads(first)["problem"]) if first else "What is 7 + 2?"


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml as plain objects; empty when there is none."""
    path = folder / "config.yaml"
    found = yaml.safe_load(path.read_text()) if path.is_file() else None
    return found if isinstance(found, dict) else {}
