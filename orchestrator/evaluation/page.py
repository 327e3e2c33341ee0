"""evaluation.html: an evaluation as one page that needs nothing else, in the report's style.

In: plain objects, as evaluation.json holds them, and its tables. Out: HTML. Must not know: files, how figures were
computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.evaluation.words import Table, router_name
from orchestrator.report.figures import mode_colors
from orchestrator.report.page import environment
from orchestrator.report.panels import Line
from orchestrator.report.plots import Dot, line_plot, scatter_plot
from orchestrator.tracking.numbers import number, percent

Found = Mapping[str, Any]
COLORS = {"free": "--a", "random": "--soft", "oracle": "--good"}
DRAWN = 15  # points of a curve: from 16 on a chart would smooth it


def render(found: Found, heading: Sequence[str], tables: Sequence[Table]) -> str:
    templates = environment("orchestrator/evaluation", "orchestrator/report")
    return templates.get_template("evaluation.html.jinja").render(
        ramp={"light": [], "dark": []},
        name=found["data"]["name"],
        verdict=verdict(found),
        heading=heading,
        tables=tables,
        figures=[figure for figure in _figures(found) if figure["svg"]],
    )


def verdict(found: Found) -> str:
    """What the choice of the mode is worth, in a sentence."""
    if not found["routing"]:
        return "No problem has a judged answer in all ways."
    routers = found["routing"]["routers"]
    free, think, chance = (routers[name] for name in ("free", "think", "random"))
    gain = chance["accuracy_gain"]
    knows = (
        "more often than a choice at random" if gain["low"] > 0
        else "less often than a choice at random" if gain["high"] < 0
        else "about as often as a choice at random"
    )  # fmt: skip
    said = [f"{percent(one['accuracy']['value'])} with {number(one['tokens']['value'])}" for one in (free, think)]
    return f"Right on {said[0]} tokens an answer; always thinking {said[1]}. It is right {knows} that thinks as often."


def _figures(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "title": "Ways to choose the mode",
            "note": "accuracy against tokens, with 95 % intervals; all from the same samples",
            "svg": Markup(_routers(found["routing"])),
        },
        {
            "title": "The dial",
            "note": "accuracy against tokens as the think token’s logit is biased; dashed: its 95 % interval, and the "
            "straight line of a choice by chance",
            "svg": Markup(_curve(found["dial"])),
        },
        {
            "title": "Calibration",
            "note": "what thinking gains in accuracy, by P(think); dashed: where both are the same",
            "svg": Markup(_calibration(found["calibration"])),
        },
    ]


def _routers(routing: Found | None) -> str:
    if routing is None:
        return ""
    colors = mode_colors([name for name in routing["routers"] if name not in COLORS]) | COLORS
    dots = [
        Dot(
            router_name(name), router_name(name), one["tokens"]["value"], one["accuracy"]["value"],
            one["accuracy"]["low"], one["accuracy"]["high"], colors[name], hollow=name in ("random", "oracle"),
        )
        for name, one in routing["routers"].items()
    ]  # fmt: skip
    return scatter_plot(dots, "accuracy against tokens of every way to choose the mode")


def _curve(dial: Found | None) -> str:
    if dial is None:
        return ""
    count = len(dial["bias"])
    at = sorted({round(i * (count - 1) / (DRAWN - 1)) for i in range(DRAWN)}, key=lambda i: float(dial["tokens"][i]))
    tokens, accuracy = ([dial[name][i] for i in at] for name in ("tokens", "accuracy"))
    low, high = ([dial["accuracy_interval"][i][end] for i in at] for end in (0, 1))
    ends = [(tokens[0], accuracy[0]), (tokens[-1], accuracy[-1])]
    lines = [
        Line("", list(zip(tokens, low, strict=True)), "--think", dashed=True),
        Line("", list(zip(tokens, high, strict=True)), "--think", dashed=True),
        Line("chance", ends, "--soft", dashed=True),
        Line("dial", list(zip(tokens, accuracy, strict=True)), "--think"),
    ]
    y = (max(0.0, math.floor(10 * min(low) - 0.3) / 10), 1.0)  # as the picture beside it
    return line_plot(lines, "accuracy against tokens along the dial", y=y, form=percent, x_title="tokens")


def _calibration(calibration: Found | None) -> str:
    if calibration is None:
        return ""
    points = [(one["p_think"], one["gain"]["value"]) for one in calibration["bins"]]
    low = min(0.0, *(value for _, value in points))
    lines = [
        Line("equal", [(0.0, 0.0), (1.0, 1.0)], "--soft", dashed=True),
        Line("gain", points, "--think"),
    ]
    return line_plot(
        lines, "what thinking gains against P(think)", y=(low, 1.0), form=percent, markers=True, x_title="P(think)"
    )
