"""The report's plots: curves of learning, of the machinery, of its health, and accuracy against tokens.

In: a run as read, its evaluation's summary. Out: titles with SVG. Must not know: the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.report.numbers import number, or_dash, percent
from orchestrator.report.plots import Dot, Line, line_plot, panels, scatter_plot, stacked_plot
from orchestrator.report.read import MODEL_NAMES, JsonObject, Run
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


def _upper(lines: Iterable[Line]) -> tuple[float, float]:
    """The part of 0..100 % that shares above their smallest need."""
    low = min((value for line in lines for _, value in line.points if value is not None), default=0.0)
    return max(0.0, math.floor(10 * low - 0.5) / 10), 1.0


def learning(run: Run) -> list[JsonObject]:
    """Think rate, accuracy, tokens and reward over steps, plain GRPO's recorded curves beside or dashed."""
    end, steps, whole = run.last_step, run.steps, (0.0, 1.0)
    aside = [record for record in run.grpo if record["step"] <= end]

    def levels(records: list[JsonObject], key: str, dashed: bool = False) -> list[Line]:
        names = enumerate(drawn_levels(run))
        return [Line(f"level {name}", _series(records, f"{key}/level/{name}"), f"--l{k}", dashed) for k, name in names]

    def grpo(key: str) -> list[Line]:
        return [Line("GRPO", _series(aside, key), "--faint", dashed=True)] if aside else []

    def everywhere(name: str, key: str) -> Line:
        return Line(name, _series(steps, key), "--ink")

    think_rate = levels(steps, "think_rate") or [everywhere("all", "think_rate/all")]
    accuracy = levels(steps, "accuracy") or [everywhere("all", "accuracy/all")]
    modes = [("think", "--think"), ("short", "--short")]
    by_mode = [
        *(Line(mode, _series(steps, f"accuracy/{mode}"), color) for mode, color in modes),
        *grpo("accuracy/all"),
        everywhere("all", "accuracy/all"),
    ]
    return panels(
        (
            "Think rate by level",
            "share of answers that begin by thinking",
            line_plot(think_rate, "Think rate by level over steps", x_end=end, y=whole, form=percent),
        ),
        (
            "Think rate by level, plain GRPO",
            "recorded on the same task, for comparison",
            line_plot(levels(run.grpo, "think_rate", True), "Think rate of plain GRPO", y=whole, form=percent),
        ),
        (
            "Accuracy by level",
            "share of right answers in training",
            line_plot(accuracy, "Accuracy by level over steps", x_end=end, y=_upper(accuracy), form=percent),
        ),
        (
            "Accuracy by mode",
            "how often an answer in each mode is right",
            line_plot(by_mode, "Accuracy by mode over steps", x_end=end, y=_upper(by_mode), form=percent),
        ),
        (
            "Tokens per answer",
            "mean, over all answers and by mode",
            line_plot(
                [
                    *(Line(mode, _series(steps, f"tokens/{mode}"), color) for mode, color in modes),
                    *grpo("tokens/mean"),
                    everywhere("all", "tokens/mean"),
                ],
                "Tokens per answer over steps",
                x_end=end,
            ),
        ),
        (
            "Reward",
            "mean over all answers",
            line_plot([*grpo("reward/mean"), everywhere("mean", "reward/mean")], "Mean reward over steps", x_end=end),
        ),
    )


def machinery(run: Run) -> list[JsonObject]:
    """Loss, validation and speed."""
    end, steps = run.last_step, run.steps
    parts = (("control", "loss/control", "--think"), ("response", "loss/response", "--a"), ("KL", "loss/kl", "--faint"))
    times = (("rollout", "--a"), ("reward", "--b"), ("learner", "--c"))
    seconds = [
        *(Line(name, _series(steps, f"seconds/{name}"), color) for name, color in times),
        Line("push", _series(steps, "weight_sync/seconds"), "--short"),
        Line("other", [(record["step"], _rest_of_step(record)) for record in steps], "--faint"),
    ]
    validation = [
        Line(name, [(at, value) for at, value in _series(steps, f"validation/{key}") if value is not None], color)
        for name, key, color in (("accuracy", "accuracy", "--ink"), ("think rate", "think_rate", "--think"))
    ]
    return panels(
        (
            "Validation",
            "on held-out questions",
            line_plot(validation, "Validation over steps", x_end=end, y=(0, 1), form=percent, markers=True),
        ),
        (
            "Parts of the loss",
            "control token, response tokens, KL to the reference",
            line_plot([Line(n, _series(steps, key), c) for n, key, c in parts], "Parts of the loss", x_end=end),
        ),
        (
            "Throughput",
            "tokens per second",
            line_plot(
                [Line(n, _series(steps, f"{n}/tokens_per_s"), c) for n, c in (("rollout", "--a"), ("learner", "--c"))],
                "Tokens per second",
                x_end=end,
            ),
        ),
        ("Seconds per step", "by part", stacked_plot(seconds, "Seconds per step by part", x_end=end)),
    )


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
        if any(key == "memory/host_gib" for _, key in keys):  # looked at now and then: no gaps between
            lines = [replace(line, points=[p for p in line.points if p[1] is not None]) for line in lines]
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
    return scatter_plot(dots, "Accuracy against tokens per answer, over the mix", "tokens per answer")
