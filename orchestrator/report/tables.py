"""The report's key figures, its table of models and modes, and its sample answers.

In: a run as read, its evaluation's summary. Out: what the page's template shows. Must not know: plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.read import MODEL_NAMES, RECENT, JsonObject, Run, mode_tokens
from orchestrator.tracking.numbers import exact_percent, number, or_dash, signed
from orchestrator.tracking.summary import interval, way_name

CLIP, CLIP_HEAD, CLIP_TAIL = 1600, 1000, 400  # characters of a sample answer that are shown


def tiles(run: Run, summary: JsonObject | None) -> list[JsonObject]:
    """The four key figures, each with its goal."""
    if summary is None:
        lately = f"mean of the last {RECENT} steps; no evaluation yet"
        rows = (
            ("Reward", run.recent("reward/mean"), signed),
            ("Accuracy", run.recent("accuracy/all"), exact_percent),
            ("Tokens per answer", run.recent("tokens/mean"), number),
            ("Think rate", run.recent("think_rate/all"), exact_percent),
        )
        return [_tile(label, or_dash(form)(value), None, "", lately) for label, value, form in rows]
    regret, low, high, _, accuracy, difference, _, saving = summary["checks"]
    rates = {low["met"], high["met"]}
    cost = summary["tokens"], summary["mix"].get("warmup", {}).get("think", {}).get("tokens")
    apart = "" if difference["value"] is None else f"{difference['text']} against always-think"
    spent = "" if None in cost else f"{number(cost[0])} against {number(cost[1])} an answer"
    rows_with_goals = (
        ("Regret", regret, "reward lost against the better forced mode"),
        ("Accuracy", accuracy, apart),
        ("Tokens vs always-think", saving, spent),
    )
    return [
        *(_tile(label, check["text"], check["met"], check["goal"], note) for label, check, note in rows_with_goals),
        _tile(
            "Think rate",
            or_dash(exact_percent)(summary["think_rate"]),
            None if None in rates else rates == {True},
            low["goal"] and f"{low['goal']} where short pays, {high['goal']} where thinking does",
            f"{low['text']} and {high['text']} at worst",
        ),
    ]


def _tile(label: str, value: str, met: bool | None, goal: str, note: str) -> JsonObject:
    return {"label": label, "value": value, "met": met, "goal": goal and f"goal {goal}", "note": note}


def before_after(run: Run, summary: Mapping[str, Any]) -> JsonObject:
    """Rows: model and mode; cells: every level, then the mix."""
    names = [str(level) for level in run.evaluation.get("levels") or ()]
    rows = []
    for model, modes in (run.evaluation.get("models") or {}).items():
        for mode in (mode for mode in modes if modes[mode]):
            cells = [modes[mode].get(name) or {} for name in names] + [summary["mix"][model][mode]]
            name = MODEL_NAMES.get(model, model)
            rows.append({"model": name, "mode": way_name(mode), "key": mode, "cells": [_cell(c) for c in cells]})
    weights = [level["weight"] for level in summary["levels"]]
    return {"levels": list(zip(names, weights, strict=True)), "rows": rows}


def _cell(figures: Mapping[str, Any]) -> JsonObject:
    spread = interval(figures)
    text = "" if spread is None else f"{100 * spread[0]:.1f}–{100 * spread[1]:.1f}"
    return {key: figures.get(key) for key in ("accuracy", "tokens", "think_rate", "reward")} | {"interval": text}


def sample_views(run: Run, samples: Sequence[JsonObject], count: int = 6) -> list[JsonObject]:
    """Up to `count` of the samples as the page shows them."""
    tokens = mode_tokens(run.config)
    return [sample_view(sample, tokens) for sample in pick_samples(samples, run.levels, count)]


def pick_samples(samples: Sequence[JsonObject], levels: Sequence[str], count: int = 6) -> list[JsonObject]:
    """Varied answers from the later half of the run, newest first within each kind: (mode, right, hard) as listed."""
    hard = set(levels[(len(levels) + 1) // 2 :])
    latest = sorted(samples, key=lambda sample: sample.get("step") or 0, reverse=True)
    last = (latest[0].get("step") or 0) if latest else 0
    late = [sample for sample in latest if (sample.get("step") or 0) >= last / 2]

    def kind(sample: JsonObject) -> tuple[Any, bool, bool]:
        return sample.get("mode"), sample.get("outcome") == "correct", str(sample.get("level")) in hard

    kinds = [
        *(("short", True, False), ("think", True, True), ("short", False, True)),
        *(("think", False, True), ("think", True, False), ("short", True, True)),
        *(("short", False, False), ("think", False, False)),
    ]
    firsts = [next((sample for sample in late if kind(sample) == wanted), None) for wanted in kinds]
    picked = [sample for sample in firsts if sample is not None][:count]
    rest = [sample for sample in latest if not any(sample is other for other in picked)]
    return picked + rest[: count - len(picked)]  # too few kinds: whatever is newest


def clipped(text: str) -> str:
    """A text without the middle, if it is very long."""
    if len(text) <= CLIP:
        return text
    left_out = len(text) - CLIP_HEAD - CLIP_TAIL
    return f"{text[:CLIP_HEAD]}\n… {left_out:,} characters left out …\n{text[-CLIP_TAIL:]}"


def sample_view(sample: Mapping[str, Any], tokens: Mapping[str, str]) -> JsonObject:
    """A sample as a page shows it: its control token apart, the middle of a very long answer left out.

    tokens: the control token of each mode."""
    text, control = str(sample.get("response") or ""), ""
    for token in tokens.values():
        if text.startswith(token):
            control, text = token, text[len(token) :]
    outcome = str(sample.get("outcome") or "unknown")
    answer = sample.get("answer")
    return {
        "problem": str(sample.get("problem") or "").strip(),
        "control": control,
        "text": clipped(text),
        "mode": sample.get("mode") if sample.get("mode") in tokens else "none",
        "outcome": outcome.replace("_", " "),
        "right": outcome == "correct",
        "reward": sample.get("reward"),
        "answer": ", ".join(map(str, answer)) if isinstance(answer, list) else "" if answer is None else str(answer),
        "step": sample.get("step"),
        "level": sample.get("level"),
    }
