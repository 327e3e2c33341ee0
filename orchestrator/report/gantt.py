"""Gantt charts of a few steps, and each actor's use of time over the whole run.

In: a timeline as read. Out: SVG in the page's colours, rows of a table. Must not know: files, the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from orchestrator.report.panels import Line, Panel
from orchestrator.report.plots import Axis, nice_ticks
from orchestrator.report.plots import drawn as drawn_panels
from orchestrator.tracking.chrome_trace import Recorded
from orchestrator.tracking.numbers import percent, tick_text
from orchestrator.tracking.utilization import DRIVER, STAGES, WORK, Actor, Interval, by_kind, covered, figures, headline
from rollout.base.spans import (
    ASLEEP,
    FOR_LEARNER,
    FOR_TRAJECTORIES,
    FOR_VERDICTS,
    FOR_WEIGHTS,
    NO_PROMPTS,
    NO_WEIGHTS,
    Span,
)

COLORS = {  # kind of span -> colour, each its own; in the order of the legend
    "sampling": "--a",
    "grading": "--b",
    "learning": "--c",
    "scoring": "--think",
    "loading weights": "--short",
    "publishing": "--publishing",
    "saving": "--saving",
    "leaving the GPU": "--leaving",
    "taking the GPU": "--taking",
    NO_WEIGHTS: "--weightless",
    NO_PROMPTS: "--promptless",
    ASLEEP: "--asleep",
    FOR_TRAJECTORIES: "--a",  # the driver's, thin as all waits: the colour of what it waits for
    FOR_VERDICTS: "--b",
    FOR_LEARNER: "--c",
    FOR_WEIGHTS: "--short",
    "handing over weights": "--publishing",  # older runs
}
OTHER = "--other"  # kinds that are not listed
ORDER = ("driver", "rollout", "reward", "learner")
FIRST, MIDDLE = 3, 5  # steps of the two charts
PAUSE = 3.0  # times the median step, between two steps: a stretch ends there
MOST_ROWS = 16  # of actors; of more, evenly spread ones of each kind
WIDTH, LABELS, SHARES = 1040.0, 128.0, 62.0
TOP, ROW, BAR, WAIT = 24.0, 24.0, 16.0, 5.0
APART = 0.6  # pixels; closer pieces of a kind are drawn as one


def section(recorded: Recorded, last_step: int) -> dict[str, Any]:
    """What the page shows of a timeline, its plots drawn."""
    found = describe(recorded)
    most = max([1.5, *(1.05 * value for _, value in found["ratio"].points if value is not None)])
    plots = [
        Panel(
            "Time at work",
            "share of each step in which the actors of a kind worked, their mean",
            found["busy"],
            "Share of time at work over steps",
            form="percent",
            y=(0, 1),
            x_end=last_step,
        ),
        Panel(
            "Step time over max(sampling, learning)",
            "1: the busiest rollout worker or learner rank never paused",
            [found["ratio"]],
            "Step time over the larger part",
            y=(1.0, most),
            x_end=last_step,
        ),
    ]
    return found | {"plots": drawn_panels(plots)}


def describe(recorded: Recorded) -> dict[str, Any]:
    """Everything of a timeline that the page shows: headline, charts, lines, table."""
    windows, actors = recorded.windows, _actors(recorded)
    wall, seconds = spent(recorded)
    worked = {
        actor: covered([_interval(span) for span in spans if span.kind == WORK[actor.kind]], windows)
        for actor, spans in actors.items()
    }
    return {
        "headline": headline(figures(wall, seconds)),
        "steps": len(windows),
        "charts": [
            {"title": title, "svg": Markup(chart(recorded, steps))}
            for title, steps in stretches(recorded.steps)
            if steps
        ],
        "busy": busy_lines(recorded, worked),
        "ratio": ratio_line(recorded, worked),
        "table": table(recorded, wall, seconds),
        "legend": legend({span.kind for spans in recorded.spans.values() for span in spans}),
    }


def _actors(recorded: Recorded) -> dict[Actor, Sequence[Span]]:
    return {actor: spans for actor, spans in recorded.spans.items() if actor != DRIVER}


def spent(recorded: Recorded) -> tuple[float, dict[Actor, dict[str, float]]]:
    """Seconds of all steps; of each actor in them, by kind of span."""
    windows = recorded.windows
    wall = sum(end - begin for begin, end in windows)
    return wall, {actor: by_kind(spans, windows) for actor, spans in _actors(recorded).items()}


def _interval(span: Span) -> Interval:
    return span.begin, span.end


def stretches(steps: Sequence[tuple[int, float, float]]) -> list[tuple[str, list[tuple[int, float, float]]]]:
    """Steps for the charts: all of a short run, else the first ones and some of the middle, one after the other."""
    if len(steps) <= FIRST + MIDDLE:
        return [("All steps", _unbroken(steps, 0, len(steps)))]
    middle = (len(steps) - MIDDLE) // 2
    near = sorted(
        range(max(FIRST, middle - 10), min(len(steps) - MIDDLE, middle + 10) + 1), key=lambda k: abs(k - middle)
    )
    found = [_unbroken(steps, start, MIDDLE) for start in near]
    best = next((one for one in found if len(one) == MIDDLE and _between(one) < 0.1), max(found, key=len))
    return [("The first steps", _unbroken(steps, 0, FIRST)), ("From the middle of the run", best)]


def _unbroken(steps: Sequence[tuple[int, float, float]], start: int, count: int) -> list[tuple[int, float, float]]:
    """Up to `count` steps from `start`, until the run paused."""
    usual = sorted(end - begin for _, begin, end in steps)[len(steps) // 2]
    taken = [steps[start]]
    for step in steps[start + 1 : start + count]:
        if step[1] - taken[-1][2] > PAUSE * usual:
            break
        taken.append(step)
    return taken


def _between(steps: Sequence[tuple[int, float, float]]) -> float:
    """The share of a stretch that lies between its steps."""
    whole = steps[-1][2] - steps[0][1]
    return 1 - sum(end - begin for _, begin, end in steps) / whole if whole > 0 else 0.0


def drawn(actors: Sequence[Actor]) -> list[Actor]:
    """At most MOST_ROWS, by kind and number; of a kind that has many, evenly spread ones."""
    ordered = sorted(actors, key=lambda a: (ORDER.index(a.kind), a.index))
    kinds = [[a for a in ordered if a.kind == kind] for kind in ORDER]
    if len(ordered) <= MOST_ROWS:
        return ordered
    room = max(2, (MOST_ROWS - 1) // max(1, sum(bool(kind) for kind in kinds[1:])))
    return [
        kind[round(k * (len(kind) - 1) / (room - 1))] if len(kind) > room else kind[k]
        for kind in kinds
        for k in range(min(room, len(kind)))
    ]


def chart(recorded: Recorded, steps: Sequence[tuple[int, float, float]]) -> str:
    """One Gantt chart: a row for each actor, idle where it is empty, the share it worked in at its end."""
    actors, windows = drawn(list(recorded.spans)), [(begin, end) for _, begin, end in steps]
    worked = []
    low, high = windows[0][0], windows[-1][1]
    axis = Axis(low, high, LABELS, WIDTH - SHARES)
    bottom = TOP + ROW * len(actors)
    parts = []
    for number, actor in enumerate(actors):
        top = TOP + ROW * number + (ROW - BAR) / 2
        text = f'y="{top + BAR / 2 + 4:.1f}"'
        parts.append(f'<text class="tick y" x="{LABELS - 10:.0f}" {text}>{escape(actor.name)}</text>')
        if actor != DRIVER:
            size = f'width="{axis.end - LABELS:.1f}" height="{BAR:.0f}"'
            parts.append(f'<rect class="idle" x="{LABELS:.1f}" y="{top:.1f}" {size}/>')
        parts += _bars(recorded.spans[actor], axis, top)
        if actor.kind in WORK:
            seconds = by_kind(recorded.spans[actor], windows).get(WORK[actor.kind], 0.0)
            share = percent(seconds / sum(end - begin for begin, end in windows))
            worked.append(f"{actor.name} worked {share}")
            color = COLORS[WORK[actor.kind]]
            parts.append(f'<text class="end" fill="var({color})" x="{axis.end + 9:.0f}" {text}>{share}</text>')
    parts.append(_steps(steps, axis, bottom))
    span = high - low
    for tick in nice_ticks(0.0, span, 8):
        at = axis(low + tick)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 18:.0f}">{tick_text(tick)} s</text>')
    parts.append(f'<text class="head" x="{WIDTH:.0f}" y="14">worked</text>')
    label = f"What every actor did in steps {steps[0][0]} to {steps[-1][0]}: {', '.join(worked)}"
    size = f'viewBox="0 0 {WIDTH:.0f} {bottom + 24:.0f}"'
    return f'<svg {size} role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _steps(steps: Sequence[tuple[int, float, float]], axis: Axis, bottom: float) -> str:
    """Lines where steps begin and end, their numbers above; what lies between two of them is paled."""
    parts, top = [], TOP - 4
    for (_, _, end), (_, begin, _) in pairwise(steps):
        width = axis(begin) - axis(end)
        if width > 1:
            size = f'width="{width:.1f}" height="{bottom - top:.1f}"'
            about = f"<title>between two steps, {begin - end:.2f} s</title>"
            parts.append(f'<rect class="pause" x="{axis(end):.1f}" y="{top:.0f}" {size}>{about}</rect>')
    edges: list[float] = []
    for step, begin, end in steps:
        left, right = axis(begin), axis(end)
        edges += [at for at in (left, right) if not edges or at - edges[-1] > 2]
        name = f"step {step}" if right - left > 60 else str(step) if right - left > 18 else ""
        parts.append(f'<text class="tick" x="{(left + right) / 2:.1f}" y="14">{name}</text>')
    parts += [f'<line class="step" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{bottom:.1f}"/>' for x in edges]
    return "".join(parts)


def _bars(spans: Sequence[Span], axis: Axis, top: float) -> list[str]:
    """Bars of work, thin lines of waiting."""
    per_pixel = (axis.high - axis.low) / (axis.end - axis.start)
    by_look: dict[str, list[Interval]] = {}
    for span in spans:
        if span.end > axis.low and span.begin < axis.high:
            by_look.setdefault(span.kind, []).append((max(span.begin, axis.low), min(span.end, axis.high)))
    parts = []
    for kind, pieces in by_look.items():
        height = WAIT if is_wait(kind) else BAR
        for begin, end in _joined(pieces, APART * per_pixel):
            left, width = axis(begin), max(0.8, (end - begin) / per_pixel)
            parts.append(
                f'<rect fill="var({COLORS.get(kind, OTHER)})" x="{left:.1f}" y="{top + (BAR - height) / 2:.1f}" '
                f'width="{width:.1f}" height="{height:.0f}"><title>{escape(kind)}, {end - begin:.3f} s</title></rect>'
            )
    return parts


def _joined(pieces: Iterable[Interval], apart: float) -> list[Interval]:
    """In order; pieces that are closer than `apart` are one."""
    joined: list[Interval] = []
    for begin, end in sorted(pieces):
        if joined and begin - joined[-1][1] <= apart:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def is_wait(kind: str) -> bool:
    """Drawn as a thin line; work is a bar."""
    return kind.startswith(("waiting", "handing", ASLEEP))


def legend(seen: set[str]) -> list[tuple[str, str, bool]]:
    """(kind, colour, whether it is a wait) of the kinds of spans that were seen."""
    return [(kind, COLORS.get(kind, OTHER), is_wait(kind)) for kind in _ordered(seen)]


def _ordered(seen: set[str]) -> list[str]:
    return [kind for kind in COLORS if kind in seen] + sorted(seen - set(COLORS))


def busy_lines(recorded: Recorded, worked: Mapping[Actor, Sequence[float]]) -> list[Line]:
    """The share of each step in which the actors of each kind worked, their mean. worked: seconds of each step."""
    lines = []
    for kind, work in WORK.items():
        seconds = [spent for actor, spent in worked.items() if actor.kind == kind]
        if seconds:
            means = [sum(spent) / len(seconds) for spent in zip(*seconds, strict=True)]
            steps = zip(recorded.steps, means, strict=True)
            points = [(float(step), mean / max(end - begin, 1e-9)) for (step, begin, end), mean in steps]
            lines.append(Line(kind, points, COLORS[work]))
    return lines


def ratio_line(recorded: Recorded, worked: Mapping[Actor, Sequence[float]]) -> Line:
    """Each step's time over max(sampling, learning); None where nothing was sampled or learnt."""
    points: list[tuple[float, float | None]] = []
    for k, (step, begin, end) in enumerate(recorded.steps):
        most = max((spent[k] for actor, spent in worked.items() if actor.kind in STAGES), default=0.0)
        points.append((float(step), (end - begin) / most if most > 0 else None))
    return Line("step", points, "--ink")


def table(recorded: Recorded, wall: float, seconds: Mapping[Actor, Mapping[str, float]]) -> dict[str, Any]:
    """Shares of the steps' time: a row for each actor that is drawn, a column for each kind of span, and idle. wall,
    seconds: of `spent`."""
    windows, actors = recorded.windows, _actors(recorded)
    seen = {kind for one in seconds.values() for kind, value in one.items() if value > 0}
    kinds, rows = _ordered(seen), []
    for actor in drawn(list(seconds)) if wall > 0 else []:
        idle = wall - sum(covered(map(_interval, actors[actor]), windows))
        cells = [*(seconds[actor].get(kind) for kind in kinds), idle]
        rows.append({"name": actor.name, "cells": [None if value is None else value / wall for value in cells]})
    return {"kinds": [*kinds, "idle"], "rows": rows, "left_out": len(seconds) - len(rows)}
