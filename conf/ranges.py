"""What a setting's value may be, declared beside it in `conf.schema`: the range of a number, the form of a text.

In: an interval as text, or a form. Out: a dataclass field that holds it as a `Range` or a `Text`. Must not know: which
settings there are.
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
class Text:
    """Texts of a form."""

    meaning: str  # in messages
    pattern: str  # of the whole text

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


# neither control characters, which end a path or move a cursor, nor half surrogate pairs, which cannot be encoded
_PRINTED = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]"
LINE = Text("a line of 1 to 1000 printable characters, not only spaces", rf"(?=.*\S){_PRINTED}{{1,1000}}")
PATH = Text(f"{LINE.meaning}, with / behind a ~", rf"(?!~[^/]){LINE.pattern}")
FOLDER = Text(f"a folder of this machine: {PATH.meaning}, without ://", rf"(?!.*://){PATH.pattern}")
URL = Text(
    "an address such as s3://bucket/runs, without user, password or query",
    r"[a-z][a-z0-9+.\-]{0,19}://[^\s@?#\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,900}",
)
ADDRESS = Text("auto, or a head's host:port", r"auto|[^\s\x00-\x1f]+:\d{1,5}|\w+://[^\s\x00-\x1f]+")
LINES = Text(
    "1 to 20000 printable characters, tabs and line ends, not only spaces",
    r"(?s:(?=.*\S)[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]{1,20000})",
)
NAME = Text(
    "at most 150 letters, digits, '.', '-', '_' and '/', the first a letter, a digit or '_', without '..'",
    r"(?!.*\.\.)\w[\w.\-/]{0,149}",
)
TOKEN = Text("2 to 100 printable characters without spaces around them", rf"(?!\s){_PRINTED}{{2,100}}(?<!\s)")
LONGEST_LIST = 1000  # items; OmegaConf takes minutes for many thousands


def text(default: Any, form: Text) -> Any:
    """A dataclass field for a text of `form`. A text without a form of its own is a LINE."""
    return field(default=default, metadata={"form": form})


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
