"""The report's plots: curves of learning, of the machinery, of its health, and accuracy against tokens.

In: a run as read, its evaluation's summary. Out: titles with SVG. Must not know: the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.report.plots import Dot, Line, line_plot, panels, scatter_plot, stacked_plot
from orchestrator.report.read import MODEL_NAMES, JsonObject, Run
from orchestrator.tracking.numbers import number, or_dash, percent
from orchestrator.tracking.summary import MODE_NAMES, interval

MAX_LEVELS = 8  # drawn; of more, evenly spread ones
LEVEL_RAMP = {  # easy to hard
    "light": ((124, 173, 62), (26, 148, 136), (46, 108, 168), (84, 46, 138)),
    "dark": ((176, 216, 100), (68, 200, 178), (104, 168, 232), (182, 148, 246)),
}
HEALTH: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (  # title, (name, key), kind
    ("Entropy, nats", (("entropy", "entropy"),), ""),
    ("KL to the reference, nats", (("KL", "kl"),), ""),
    ("Clipped tokens", (("clipped", "clip_fraction"),), "share"),
    ("Ratio outside 0.9 to 1.1", (("outside", "ratio_outside"),), "share"),
    ("Gradient norm", (("norm", "grad_norm"),), ""),
    ("Sampler/learner |Δ log-prob|", (("max", "mismatch/max_abs"), ("mean", "mismatch/mean_abs")), "log"),
    ("Sampler/learner KL, nats", (("KL", "mismatch/kl"),), ""),
    ("Importance weight", (("max", "importance/max"), ("mean", "importance/mean")), "log"),
    ("Answer length, tokens", (("p50", "tokens/p50"), ("p95", "tokens/p95"), ("max", "tokens/max")), ""),
    ("Truncated answers", (("truncated", "truncated"),), "share"),
    ("Short answers that hold a think token", (("think_in_short", "think_in_short"),), "share"),
    ("Groups without a gradient", (("dropped", "groups/dropped_share"),), "share"),
    ("Answers without a verdict", (("unjudged", "unjudged"),), ""),
    ("Learning rate", (("lr", "lr"),), ""),
    ("Memory, GiB", (("all processes", "memory/host_gib"), ("learner", "learner/memory_gib/learn")), ""),
)


def drawn_levels(run: Run) -> list[str]:
    levels = run.levels
    if len(levels) <= MAX_LEVELS:
        return levels
    return [levels[round(k * (len(levels) - 1) / (MAX_LEVELS - 1))] for k in range(MAX_LEVELS)]


def level_colors(run: Run) -> dict[str, list[str]]:
    """The drawn levels' colours as CSS, by scheme ("light", "dark")."""
    return {scheme: _ramp(stops, len(drawn_levels(run))) for scheme, stops in LEVEL_RAMP.items()}


def _ramp(stops: Sequence[tuple[int, int, int]], count: int) -> list[str]:
    """`count` colours spread over the stops, as CSS."""
    colors = []
    for k in range(count):
        at = (k / (count - 1) if count > 1 else 0.67) * (len(stops) - 1)
        left = min(int(at), len(stops) - 2)
        mix = [round(a + (at - left) * (b - a)) for a, b in zip(stops[left], stops[left + 1], strict=True)]
        colors.append("#{:02x}{:02x}{:02x}".format(*mix))
    return colors


def _series(records: Iterable[JsonObject], key: str) -> list[tuple[float, float | None]]:
    return [(record["step"], record.get(key)) for record in records]


def _upper(lines: Iterable[Line]) -> dict[str, Any]:
    """An axis with the part of 0..100 % that shares above their smallest need."""
    low = min((value for line in lines for _, value in line.points if value is not None), default=0.0)
    return {"y": (max(0.0, math.floor(10 * low - 0.5) / 10), 1.0), "form": percent}


def _plot(run: Run, title: str, note: str, lines: Sequence[Line], label: str = "", **how: Any) -> tuple[str, str, str]:
    """A panel with lines over the run's steps. how: further arguments of `line_plot`."""
    return title, note, line_plot(lines, label or f"{title} over steps", **{"x_end": run.last_step, **how})


def learning(run: Run) -> list[JsonObject]:
    """Think rate, accuracy, tokens and reward over steps, plain GRPO's recorded curves beside or dashed."""
    steps, whole = run.steps, (0.0, 1.0)
    aside = [record for record in run.grpo if record["step"] <= run.last_step]

    def levels(records: list[JsonObject], key: str, dashed: bool = False) -> list[Line]:
        names = enumerate(drawn_levels(run))
        return [Line(f"level {name}", _series(records, f"{key}/level/{name}"), f"--l{k}", dashed) for k, name in names]

    def over_all(key: str, name: str = "all") -> list[Line]:
        grpo = [Line("GRPO", _series(aside, key), "--faint", dashed=True)] if aside else []
        return [*grpo, Line(name, _series(steps, key), "--ink")]

    def modes(key: str) -> list[Line]:
        return [Line(mode, _series(steps, f"{key}/{mode}"), f"--{mode}") for mode in ("think", "short")]

    think_rate = levels(steps, "think_rate") or over_all("think_rate/all")[-1:]
    accuracy = levels(steps, "accuracy") or over_all("accuracy/all")[-1:]
    by_mode = modes("accuracy") + over_all("accuracy/all")
    tokens = modes("tokens") + over_all("tokens/mean")
    grpo, note = levels(run.grpo, "think_rate", dashed=True), "recorded on the same task, for comparison"
    label = "Think rate of plain GRPO"
    return panels(
        _plot(run, "Think rate by level", "share of answers that begin by thinking", think_rate, y=whole, form=percent),
        _plot(run, "Think rate by level, plain GRPO", note, grpo, label, x_end=None, y=whole, form=percent),
        _plot(run, "Accuracy by level", "share of right answers in training", accuracy, **_upper(accuracy)),
        _plot(run, "Accuracy by mode", "how often an answer in each mode is right", by_mode, **_upper(by_mode)),
        _plot(run, "Tokens per answer", "mean, over all answers and by mode", tokens),
        _plot(run, "Reward", "mean over all answers", over_all("reward/mean", "mean"), "Mean reward over steps"),
    )


def machinery(run: Run) -> list[JsonObject]:
    """Loss, validation and speed."""
    steps = run.steps

    def lines(*named: tuple[str, str, str]) -> list[Line]:
        return [Line(name, _series(steps, key), color) for name, key, color in named]

    parts = lines(
        ("control", "loss/control", "--think"), ("response", "loss/response", "--a"), ("KL", "loss/kl", "--faint")
    )
    seconds = lines(
        ("rollout", "seconds/rollout", "--a"),
        ("reward", "seconds/reward", "--b"),
        ("learner", "seconds/learner", "--c"),
        ("weight sync", "weight_sync/seconds", "--short"),
    )
    seconds.append(Line("other", [(record["step"], _rest_of_step(record)) for record in steps], "--faint"))
    speed = lines(("rollout", "rollout/tokens_per_s", "--a"), ("learner", "learner/tokens_per_s", "--c"))
    validation = lines(("accuracy", "validation/accuracy", "--ink"), ("think rate", "validation/think_rate", "--think"))
    validation = [without_gaps(line) for line in validation]
    stacked = stacked_plot(seconds, "Seconds per step by part", run.last_step)
    return panels(
        _plot(run, "Validation", "on held-out questions", validation, y=(0, 1), form=percent, markers=True),
        _plot(
            run, "Parts of the loss", "control token, response tokens, KL to the reference", parts, "Parts of the loss"
        ),
        _plot(run, "Throughput", "tokens per second", speed, "Tokens per second"),
        ("Seconds per step", "by part", stacked),
    )


def without_gaps(line: Line) -> Line:
    """Of a figure that is measured now and then."""
    return replace(line, points=[point for point in line.points if point[1] is not None])


def _rest_of_step(record: Mapping[str, Any]) -> float | None:
    if record.get("seconds/step") is None:
        return None
    parts = ("seconds/rollout", "seconds/reward", "seconds/learner", "weight_sync/seconds")
    return max(0.0, float(record["seconds/step"]) - sum(record.get(part) or 0.0 for part in parts))


def health(run: Run) -> list[JsonObject]:
    """Small multiples; the last value stands under each title."""

    def small(
        title: str, records: list[JsonObject], keys: Sequence[tuple[str, str]], kind: str, end: float
    ) -> list[JsonObject]:
        form = percent if kind == "share" else number
        lines = [
            Line(n, _series(records, key), c) for (n, key), c in zip(keys, ("--ink", "--a", "--faint"), strict=False)
        ]
        if any(key == "memory/host_gib" for _, key in keys):
            lines = list(map(without_gaps, lines))
        lines = [line for line in lines if any(value is not None for _, value in line.points)]
        svg = line_plot(lines, f"{title} over steps", x_end=end, form=form, log=kind == "log", small=True)
        last = [next((v for _, v in reversed(line.points) if v is not None), None) for line in lines]
        values = [or_dash(form)(value) for value in last]
        if len(lines) < 2 and len(keys) < 2:
            return panels((title, "".join(values), svg))
        legend = [(line.name, line.color, value) for line, value in zip(lines, values, strict=True)]
        return [shown | {"legend": legend} for shown in panels((title, "", svg))]

    out = [small(title, run.steps, keys, kind, run.last_step) for title, keys, kind in HEALTH]
    if any(record.get("staleness/max") for record in run.steps):
        out.append(small("Staleness, updates", run.steps, [("max", "staleness/max")], "", run.last_step))
    if run.warmup:
        out.append(small("Warm-up loss, nats", run.warmup, [("loss", "loss")], "", run.warmup[-1]["step"]))
    return [figure for figures in out for figure in figures]


def modes_scatter(summary: Mapping[str, Any]) -> str:
    """Accuracy against tokens over the mix, of every model and mode that was measured."""
    colors = {"free": "--ink", "think": "--think", "short": "--short"}
    dots = []
    for model, modes in summary["mix"].items():
        for mode, mix in modes.items():
            if mix["accuracy"] is None or mix["tokens"] is None:
                continue
            low, high = interval(mix) or (mix["accuracy"], mix["accuracy"])
            hollow = model != "final"
            name = f"{MODEL_NAMES.get(model, model).lower()}, {MODE_NAMES[mode]}"
            label = "" if hollow and "final" in summary["mix"] else MODE_NAMES[mode]  # the filled counterpart has it
            dots.append(Dot(name, label, mix["tokens"], mix["accuracy"], low, high, colors[mode], hollow))
    return scatter_plot(dots, "Accuracy against tokens per answer, over the mix")
