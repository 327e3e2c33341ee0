"""Plots as inline SVG, coloured by the page's CSS variables so that they follow its light and dark scheme.

In: panels, lines, dots. Out: SVG text, with the values for hovering in its `data-plot` attribute. Must not know: runs,
files, the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from orchestrator.report.panels import Form, Line, Panel, Value, mean, thinned
from orchestrator.tracking.numbers import number, or_dash, percent, tick_text

FORMS: dict[Form, Callable[[float], str]] = {"number": number, "percent": percent}
RAW_FROM = 16  # points from which a running mean is drawn over the raw values
LABEL_GAP = 15.0  # between two labels at line ends


@dataclass(frozen=True, slots=True)
class Dot:
    name: str
    label: str  # shown beside it; "": none
    x: float
    y: float
    low: float  # interval of y
    high: float
    color: str
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: data range, where it lies in the picture, and whether it is logarithmic."""

    low: float
    high: float
    start: float  # picture coordinate of low
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(max(v, 1e-300)) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)

    def ticks(self, about: int) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high, about)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        stride = max(1, math.ceil((last - first) / max(about, 1)))
        return [10.0**power for power in range(first, last + 1, stride)]


def drawn(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Panels as the page takes them: title, note and SVG; those with nothing to draw are left out."""
    return [_figure(panel) for panel in panels if panel.known]


def _figure(panel: Panel) -> dict[str, Any]:
    """A small panel shows its last values: in the place of the note, or in a legend where lines have names."""
    figure: dict[str, Any] = {"title": panel.title, "note": panel.note, "svg": Markup(svg(panel))}
    if panel.small:
        last = or_dash(FORMS[panel.form])
        if any(line.name for line in panel.lines):
            figure["legend"] = [(line.name, line.color, last(line.last)) for line in panel.lines]
        else:
            figure["note"] = last(panel.lines[0].last)
    return figure


def svg(panel: Panel) -> str:
    """One panel's picture, with its last values for who does not see it; "" where there is nothing to draw."""
    last = (f"{line.name} {FORMS[panel.form](line.last)}".strip() for line in panel.lines if line.last is not None)
    label = f"{panel.about}: {', '.join(last)}"
    if panel.kind == "stacked":
        return stacked_plot(panel.lines, label, panel.x_end or 0.0)
    return line_plot(
        panel.lines,
        label,
        x_end=panel.x_end,
        y=panel.y,
        form=FORMS[panel.form],
        log=panel.log,
        markers=panel.markers,
        small=panel.small,
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], at 1, 2, 2.5 or 5 times a power of ten. Example: (0, 7, 4) -> [0, 2, 4, 6]."""
    if high <= low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if rough <= power * factor * (1 + 1e-9))
    digits = 2 - math.floor(math.log10(step))  # 2.5 has one more than its power of ten
    return [round(k * step, digits) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def line_plot(
    lines: Sequence[Line],
    label: str,
    *,
    x_end: float | None = None,
    y: tuple[float, float] | None = None,
    form: Callable[[float], str] = number,
    log: bool = False,
    markers: bool = False,
    small: bool = False,
    x_title: str = "step",
) -> str:
    """Lines over steps. A noisy line is drawn faintly under its running mean; line ends carry the names."""
    lines = [thinned(line) for line in lines if any(value is not None for _, value in line.points)]
    if not lines:
        return ""
    width, height = (240.0, 130.0) if small else (480.0, 270.0)
    names = [line.name for line in lines if line.name]
    right = 10.0 if small or not names else 14 + 7.2 * max(map(len, names))
    x_axis = _x_axis(lines, x_end, 42 if small else 46, width - right)
    values = [value for line in lines for _, value in line.points if value is not None and (value > 0 or not log)]
    y_axis = _y_axis(values, y, log, height - 24, 10)
    parts = [_frame(x_axis, y_axis, tick_text if form is number else form, small, x_title)]
    ends: list[tuple[float, float, str, str]] = []
    for line in lines:
        smooth = line if markers or len(line.points) < RAW_FROM else _smoothed(line)
        stroke = f'stroke="var({line.color})"' + (' stroke-dasharray="5 4"' if line.dashed else "")
        if smooth is not line and not line.dashed:
            parts.append(f'<path class="raw" {stroke} d="{_path(line.points, x_axis, y_axis)}"/>')
        parts.append(f'<path class="line" {stroke} d="{_path(smooth.points, x_axis, y_axis)}"/>')
        shown = [(x_axis(x), y_axis(v)) for x, v in smooth.points if v is not None and (v > 0 or not log)]
        if markers:
            parts += [f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3" fill="var({line.color})"/>' for cx, cy in shown]
        if shown and line.name:
            ends.append((*shown[-1], line.name, line.color))
    if not small:
        parts.append(_end_labels(ends, y_axis))
    return _svg(parts, width, height, label, _hover(lines, x_axis, height, form))


def stacked_plot(lines: Sequence[Line], label: str, x_end: float) -> str:
    """Areas on top of one another, first line at the bottom. A missing value counts as 0."""
    lines = [thinned(line) for line in lines if any(value for _, value in line.points)]
    if not lines:
        return ""
    width, height = 480.0, 270.0
    steps = sorted({x for line in lines for x, value in line.points if value is not None})
    rows = [[dict(line.points).get(x) or 0.0 for x in steps] for line in lines]
    tops = np.cumsum(np.asarray(rows), axis=0)
    x_axis = _x_axis(lines, x_end, 46, width - 14 - 7.2 * max(len(line.name) for line in lines))
    y_axis = _y_axis([0.0, float(np.percentile(tops[-1], 99)) * 1.05], None, False, height - 24, 10)
    parts, ends, floor = [_frame(x_axis, y_axis, tick_text, False, "step")], [], np.zeros(len(steps))
    clip = y_axis.high  # one slow first step must not flatten the rest
    for line, top in zip(lines, tops, strict=True):
        there = [f"{x_axis(x):.1f},{y_axis(min(v, clip)):.1f}" for x, v in zip(steps, top, strict=True)]
        back = [f"{x_axis(x):.1f},{y_axis(min(v, clip)):.1f}" for x, v in zip(steps, floor, strict=True)]
        parts.append(f'<path class="area" fill="var({line.color})" d="M{" ".join(there + back[::-1])}Z"/>')
        tail = slice(-max(1, len(steps) // 20), None)
        ends.append((x_axis(steps[-1]), y_axis(float(np.mean((top + floor)[tail])) / 2), line.name, line.color))
        floor = top
    parts.append(_end_labels(ends, y_axis))
    return _svg(parts, width, height, label, _hover(lines, x_axis, height, number))


def scatter_plot(dots: Sequence[Dot], label: str) -> str:
    """Shares (y) against tokens per answer (x, from 0), with intervals."""
    if not dots:
        return ""
    width, height = 480.0, 300.0
    x_axis = Axis(0.0, 1.12 * max(dot.x for dot in dots) or 1.0, 46, width - 14)
    low = min(dot.low for dot in dots)
    y_axis = Axis(max(0.0, math.floor(10 * low - 0.3) / 10), 1.0, height - 40, 14)
    parts = [_frame(x_axis, y_axis, percent, False)]
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{height - 4:.0f}">tokens per answer</text>')
    spots = [(x_axis(dot.x), y_axis(dot.y)) for dot in dots]
    for color in {dot.color: None for dot in dots}:  # from one model to the other
        path = "L".join(f"{x:.1f},{y:.1f}" for (x, y), dot in zip(spots, dots, strict=True) if dot.color == color)
        parts.append(f'<path class="link" stroke="var({color})" d="M{path}"/>')
    taken = [(x - 8, x + 8, y - 8, y + 8) for x, y in spots]  # left, right, top, bottom
    texts = []
    for (x, y), dot in zip(spots, dots, strict=True):
        color, span = f"var({dot.color})", 7.0 * len(dot.label)
        beside = [(x + 9, y), (x - 9 - span, y), (x - span / 2, y + 18), (x - span / 2, y - 18)]
        places = beside + [(left, y + shift) for shift in (18, -18, 34, -34, 50) for left in (x + 9, x - 9 - span)]
        boxes = [(left, left + span, at - 7, at + 7) for left, at in places]
        inside = [box for box in boxes if box[0] >= x_axis.start and box[1] <= width and y_axis.end - 12 <= box[2]]
        box = next((box for box in inside if not any(_overlap(box, other) for other in taken)), boxes[0])
        if dot.label:
            taken.append(box)
        fill = "var(--paper)" if dot.hollow else color
        parts += [
            f'<g stroke="{color}"><title>{escape(dot.name)}: {percent(dot.y)}, {number(dot.x)} tokens</title>',
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y_axis(dot.low):.1f}" y2="{y_axis(dot.high):.1f}"/>',
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" stroke-width="2" fill="{fill}"/></g>',
        ]
        anchor, start = "middle", (box[0] + box[1]) / 2
        if not box[0] < x < box[1]:
            anchor, start = ("start", box[0]) if box[0] > x else ("end", box[1])
        at = f'x="{start:.1f}" y="{box[2] + 11:.1f}" text-anchor="{anchor}"'
        texts.append(f'<text class="end" fill="{color}" {at}>{escape(dot.label)}</text>')
    parts += texts
    return _svg(parts, width, height, label, None)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _x_axis(lines: Sequence[Line], x_end: float | None, start: float, end: float) -> Axis:
    steps = [x for line in lines for x, _ in line.points]
    return Axis(min(steps), max(steps) if x_end is None else max(x_end, min(steps)), start, end)


def _y_axis(values: Sequence[float], y: tuple[float, float] | None, log: bool, bottom: float, top: float) -> Axis:
    if y is not None:
        return Axis(*y, bottom, top)
    low, high = (min(values), max(values)) if values else (0.1, 1.0)
    if log:
        powers = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
        return Axis(10.0 ** powers[0], 10.0 ** powers[1], bottom, top, log=True)
    low, high = min(low, 0.0), max(high, 0.0)
    return Axis(low + 0.06 * min(low, 0.0), high + 0.06 * max(high, 0.0) if high > low else low + 1.0, bottom, top)


def _smoothed(line: Line) -> Line:
    """Centred running mean over about a twelfth of the line, narrower towards its ends; a gap stays a gap."""
    wide = max(2, len(line.points) // 24)
    values = [value for _, value in line.points]
    halves = [min(wide, max(2, at), max(2, len(values) - 1 - at)) for at in range(len(values))]
    means = [mean(values[max(0, at - half) : at + half + 1]) for at, half in enumerate(halves)]
    return replace(line, points=[(x, None if v is None else m) for (x, v), m in zip(line.points, means, strict=True)])


def _path(points: Sequence[tuple[float, Value]], x_axis: Axis, y_axis: Axis) -> str:
    """Lifts the pen at gaps; a point alone between two gaps becomes a dot."""
    out, down = [], False
    for at, (x, value) in enumerate(points):
        if value is None or (y_axis.log and value <= 0):
            down = False
            continue
        out.append(f"{'L' if down else 'M'}{x_axis(x):.1f},{y_axis(value):.1f}")
        if not down and (at + 1 == len(points) or points[at + 1][1] is None):
            out.append("h.01")
        down = True
    return "".join(out)


def _frame(x_axis: Axis, y_axis: Axis, form: Callable[[float], str], small: bool, x_title: str = "") -> str:
    """Hairlines and numbers of both axes; x_title stands left of the numbers that it names."""
    parts = []
    for tick in y_axis.ticks(2 if small else 4):
        at = y_axis(tick)
        kind = "zero" if tick == 0 and not y_axis.log else "grid"
        parts.append(
            f'<line class="{kind}" x1="{x_axis.start:.0f}" x2="{x_axis.end:.0f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(f'<text class="tick y" x="{x_axis.start - 6:.0f}" y="{at + 4:.1f}">{escape(form(tick))}</text>')
    base = max(y_axis.start, y_axis.end) + 18
    for tick in nice_ticks(x_axis.low, x_axis.high, 3 if small else 6):
        if tick != round(tick) and x_title == "step":  # there is no step 2.5
            continue
        parts.append(f'<text class="tick" x="{x_axis(tick):.1f}" y="{base:.1f}">{tick_text(tick)}</text>')
    if x_title:
        parts.append(f'<text class="tick y" x="{x_axis.start - 10:.0f}" y="{base:.1f}">{escape(x_title)}</text>')
    return "".join(parts)


def _end_labels(ends: Sequence[tuple[float, float, str, str]], y_axis: Axis) -> str:
    """Names at line ends, pushed apart where they would cover one another."""
    order = sorted(ends, key=lambda end: end[1])
    top, bottom = min(y_axis.start, y_axis.end), max(y_axis.start, y_axis.end)
    at: list[float] = []
    for _, y, _, _ in order:
        at.append(max(y, at[-1] + LABEL_GAP) if at else max(y, top))
    floor = bottom + 2
    for k in range(len(at) - 1, -1, -1):
        at[k] = min(at[k], floor)
        floor = at[k] - LABEL_GAP
    return "".join(
        f'<text class="end" fill="var({color})" x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        for (x, _, name, color), y in zip(order, at, strict=True)
    )


def _hover(lines: Sequence[Line], x_axis: Axis, height: float, form: Callable[[float], str]) -> str:
    steps = sorted({x for line in lines for x, _ in line.points})
    rows = []
    for line in lines:
        known = dict(line.points)
        values = [known.get(x) for x in steps]
        rows.append([line.name, line.color, [None if value is None else form(value) for value in values]])
    at = [round(x_axis(x), 1) for x in steps]
    return json.dumps({"x": steps, "at": at, "top": 10, "bottom": height - 24, "rows": rows}, separators=(",", ":"))


def _svg(parts: Iterable[str], width: float, height: float, label: str, hover: str | None) -> str:
    data = f' data-plot="{escape(hover)}"' if hover else ""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}"{data}>{"".join(parts)}</svg>'
