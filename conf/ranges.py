"""The range of a numeric setting, declared beside it in `conf.schema`.

In: an interval as text. Out: a dataclass field that holds it as a `Range`. Must not know: which settings there are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any


def number(default: Any, interval: str) -> Any:
    """A dataclass field for a number, or a list of numbers, within `interval`.

    Brackets include the bound, parentheses exclude it. A list's interval is that of each item; "x 2": of exactly two.
    Upper bounds are far beyond any use: they catch typing errors, overflows, and runs that would never end.
    """
    metadata = {"range": Range.read(interval)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds."""

    text: str  # the interval as in the schema and in messages
    low: float
    high: float
    with_low: bool
    with_high: bool
    count: int | None = None  # a list's items; None: any number of them

    @classmethod
    def read(cls, text: str) -> Range:
        found = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])(?: x (\d+))?", text)
        assert found, text
        left, low, high, right, count = found.groups()
        interval = text.partition(" x ")[0]
        return cls(interval, float(low), float(high), left == "[", right == "]", int(count) if count else None)

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        above = value >= self.low if self.with_low else value > self.low
        return above and (value <= self.high if self.with_high else value < self.high)
