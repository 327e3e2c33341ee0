"""The report's plots: curves of learning, of the machinery, of its health, and accuracy against tokens.

In: a run's curves, whole or as far as they have come; its evaluation's summary. Out: panels; SVG of dots. Must not
know: the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.report.panels import Form, Line, Panel, Point, Value, without_gaps
from orchestrator.report.plots import Dot, scatter_plot
from orchestrator.report.read import MODEL_NAMES, JsonObject, curve
from orchestrator.tracking.summary import interval, way_name

MAX_LEVELS = 8  # drawn; of more, evenly spread ones
BETWEEN = ("--b", "--c")  # colours of modes between think and short
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


class Curves(Protocol):
    """A run's figures: a run as the report reads it, or one that is being followed."""

    @property
    def levels(self) -> Sequence[str]: ...

    @property
    def modes(self) -> Sequence[str]:
        """Their names, the longest first."""

    @property
    def last_step(self) -> int: ...

    @property
    def grpo(self) -> Sequence[JsonObject]:
        """Records of plain GRPO with the same settings; empty where it does not apply."""

    @property
    def warmup(self) -> Sequence[JsonObject]: ...

    def curve(self, key: str) -> list[Point]:
        """One figure over the steps."""


def mode_colors(modes: Sequence[str]) -> dict[str, str]:
    """CSS variables."""
    others = [mode for mode in modes if mode not in ("think", "short")]
    return {mode: BETWEEN[others.index(mode) % len(BETWEEN)] if mode in others else f"--{mode}" for mode in modes}


def drawn_levels(run: Curves) -> list[str]:
    levels = list(run.levels)
    if len(levels) <= MAX_LEVELS:
        return levels
    return [levels[round(k * (len(levels) - 1) / (MAX_LEVELS - 1))] for k in range(MAX_LEVELS)]


def level_colors(run: Curves) -> dict[str, list[str]]:
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


def _upper(lines: Iterable[Line]) -> tuple[float, float]:
    """An axis with the part of 0..100 % that shares above their smallest need."""
    low = min((value for line in lines for _, value in line.points if value is not None), default=0.0)
    return max(0.0, math.floor(10 * low - 0.5) / 10), 1.0


def learning(run: Curves) -> list[Panel]:
    """Think rate, accuracy, tokens and reward over steps, plain GRPO's recorded curves beside or dashed."""
    end, aside = run.last_step, [record for record in run.grpo if record["step"] <= run.last_step]

    def levels(key: str) -> list[Line]:
        names = enumerate(drawn_levels(run))
        return [Line(f"level {name}", run.curve(f"{key}/level/{name}"), f"--l{k}") for k, name in names]

    def over_all(key: str, name: str = "all") -> list[Line]:
        grpo = [Line("GRPO", curve(aside, key), "--faint", dashed=True)] if aside else []
        return [*grpo, Line(name, run.curve(key), "--ink")]

    def modes(key: str) -> list[Line]:
        return [Line(mode, run.curve(f"{key}/{mode}"), color) for mode, color in mode_colors(run.modes).items()]

    def shares(title: str, note: str, lines: list[Line], y: tuple[float, float]) -> Panel:
        return Panel(title, note, lines, form="percent", y=y, x_end=end)

    think_rate = levels("think_rate") or over_all("think_rate/all")[-1:]
    accuracy = levels("accuracy") or over_all("accuracy/all")[-1:]
    by_mode = modes("accuracy") + over_all("accuracy/all")
    tokens = modes("tokens") + over_all("tokens/mean")
    grpo = [
        Line(f"level {name}", curve(run.grpo, f"think_rate/level/{name}"), f"--l{k}", dashed=True)
        for k, name in enumerate(drawn_levels(run))
    ]
    return [
        shares("Think rate by level", "share of answers that begin by thinking", think_rate, (0, 1)),
        Panel(
            "Think rate by level, plain GRPO",
            "recorded on the same task, for comparison",
            grpo,
            "Think rate of plain GRPO",
            form="percent",
            y=(0, 1),
        ),
        shares("Accuracy by level", "share of right answers in training", accuracy, _upper(accuracy)),
        shares("Accuracy by mode", "how often an answer in each mode is right", by_mode, _upper(by_mode)),
        Panel("Tokens per answer", "mean, over all answers and by mode", tokens, x_end=end),
        Panel("Reward", "mean over all answers", over_all("reward/mean", "mean"), "Mean reward over steps", x_end=end),
    ]


def machinery(run: Curves) -> list[Panel]:
    """Loss, validation and speed."""
    end = run.last_step

    def lines(*named: tuple[str, str, str]) -> list[Line]:
        return [Line(name, run.curve(key), color) for name, key, color in named]

    parts = lines(
        ("control", "loss/control", "--think"), ("response", "loss/response", "--a"), ("KL", "loss/kl", "--faint")
    )
    seconds = lines(
        ("rollout", "seconds/rollout", "--a"),
        ("reward", "seconds/reward", "--b"),
        ("learner", "seconds/learner", "--c"),
        ("weight sync", "weight_sync/seconds", "--short"),
    )
    seconds.append(Line("other", _rest_of_step(run.curve("seconds/step"), seconds), "--faint"))
    speed = lines(("rollout", "rollout/tokens_per_s", "--a"), ("learner", "learner/tokens_per_s", "--c"))
    validation = lines(("accuracy", "validation/accuracy", "--ink"), ("think rate", "validation/think_rate", "--think"))
    held_out, terms = "on held-out questions", "control token, response tokens, KL to the reference"
    whole: dict[str, Any] = {"form": "percent", "y": (0, 1), "markers": True}
    return [
        Panel("Validation", held_out, [without_gaps(line) for line in validation], x_end=end, **whole),
        Panel("Parts of the loss", terms, parts, "Parts of the loss", x_end=end),
        Panel("Throughput", "tokens per second", speed, "Tokens per second", x_end=end),
        Panel("Seconds per step", "by part", seconds, "Seconds per step by part", kind="stacked", x_end=end),
    ]


def _rest_of_step(whole: Sequence[Point], parts: Sequence[Line]) -> list[Point]:
    """What the parts leave of each step's seconds."""
    rest: list[Point] = []
    for (step, seconds), *spent in zip(whole, *(part.points for part in parts), strict=True):
        left: Value = None if seconds is None else max(0.0, seconds - sum(value or 0.0 for _, value in spent))
        rest.append((step, left))
    return rest


def health(run: Curves) -> list[Panel]:
    """Small multiples; the last value stands beside each title."""

    def small(title: str, keys: Sequence[tuple[str, str]], kind: str = "") -> Panel:
        form: Form = "percent" if kind == "share" else "number"
        names = [name if len(keys) > 1 else "" for name, _ in keys]
        colors = ("--ink", "--a", "--faint")
        lines = [Line(n, run.curve(key), c) for n, (_, key), c in zip(names, keys, colors, strict=False)]
        if any(key == "memory/host_gib" for _, key in keys):
            lines = list(map(without_gaps, lines))
        known = [line for line in lines if line.known]
        return Panel(title, "", known, form=form, x_end=run.last_step, log=kind == "log", small=True)

    panels = [small(*of) for of in HEALTH]
    if any(value for _, value in run.curve("staleness/max")):
        panels.append(small("Staleness, updates", [("max", "staleness/max")]))
    if run.warmup:
        loss = [Line("", curve(run.warmup, "loss"), "--ink")]
        panels.append(Panel("Warm-up loss, nats", "", loss, x_end=run.warmup[-1]["step"], small=True))
        right = [
            without_gaps(
                Line(
                    "thinking" if mode == "think" else mode,
                    curve(run.warmup, f"validation/accuracy/forced/{mode}"),
                    color,
                )
            )
            for mode, color in mode_colors(run.modes).items()
        ]
        known = [line for line in right if line.known]
        end = run.warmup[-1]["step"]
        panels.append(Panel("Warm-up: right by mode", "", known, form="percent", x_end=end, small=True))
    return [panel for panel in panels if panel.known]


def modes_scatter(summary: Mapping[str, Any]) -> str:
    """Accuracy against tokens over the mix, of every model and mode that was measured."""
    dots = []
    for model, modes in summary["mix"].items():
        colors = {"free": "--ink", **mode_colors([mode for mode in modes if mode != "free"])}
        for mode, mix in modes.items():
            if mix["accuracy"] is None or mix["tokens"] is None:
                continue
            low, high = interval(mix) or (mix["accuracy"], mix["accuracy"])
            hollow = model != "final"
            name = f"{MODEL_NAMES.get(model, model).lower()}, {way_name(mode)}"
            label = "" if hollow and "final" in summary["mix"] else way_name(mode)  # the filled counterpart has it
            dots.append(Dot(name, label, mix["tokens"], mix["accuracy"], low, high, colors[mode], hollow))
    return scatter_plot(dots, "Accuracy against tokens per answer, over the mix")
