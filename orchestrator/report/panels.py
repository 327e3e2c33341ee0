"""What a chart shows, as data: the report draws panels as SVG (`plots`), the live page as interactive charts
(`orchestrator/watch`).

In: named lines of (step, value) points; a missing value is a gap. Out: `Panel`. Must not know: runs, how it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Value = float | None
Point = tuple[float, Value]
Form = Literal["number", "percent"]
MAX_POINTS = 600  # of a line; longer ones are averaged in bins


@dataclass(frozen=True, slots=True)
class Line:
    name: str  # shown at its end
    points: Sequence[Point]  # by x
    color: str  # a CSS variable, e.g. "--think"
    dashed: bool = False

    @property
    def known(self) -> bool:
        """Whether it has a value at all."""
        return any(value is not None for _, value in self.points)

    @property
    def last(self) -> Value:
        """Its newest value."""
        return next((value for _, value in reversed(self.points) if value is not None), None)


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    note: str
    lines: Sequence[Line]
    label: str = ""  # for screen readers; "": the title, over steps
    kind: Literal["lines", "stacked"] = "lines"  # stacked: areas on top of one another, the first at the bottom
    form: Form = "number"
    y: tuple[float, float] | None = None  # None: as the values need
    x_end: float | None = None  # None: the last point
    log: bool = False
    markers: bool = False  # for few points
    small: bool = False  # one of many, with its last values beside its title

    @property
    def about(self) -> str:
        return self.label or f"{self.title} over steps"

    @property
    def known(self) -> bool:
        """Whether there is anything to draw."""
        return any(line.known for line in self.lines)


def thinned(line: Line, most: int = MAX_POINTS) -> Line:
    """At most `most` points, each the mean of its bin."""
    if len(line.points) <= most:
        return line
    size = math.ceil(len(line.points) / most)
    bins = [line.points[at : at + size] for at in range(0, len(line.points), size)]
    return replace(line, points=[(part[-1][0], mean(v for _, v in part)) for part in bins])


def without_gaps(line: Line) -> Line:
    """Of a figure that is measured now and then."""
    return replace(line, points=[point for point in line.points if point[1] is not None])


def mean(values: Iterable[Value]) -> Value:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
