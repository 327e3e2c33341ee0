"""Numbers as the report and the end of a run write them."""

from __future__ import annotations

import math
from collections.abc import Callable


def percent(value: float) -> str:
    return f"{100 * value:.0f} %" if abs(value) >= 0.1 or value == 0 else f"{100 * value:.1f} %"


def exact_percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Three significant digits or so. Example: 1234.5 -> "1,234", 0.01234 -> "0.0123", 0.00001 -> "1e-05"."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}" if size < 1e-3 else f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def tick_text(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Example: 5400 -> "90 min"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{hours:g} h"


def or_dash(form: Callable[..., str]) -> Callable[..., str]:
    """`form` for values that may be missing: "–"."""
    return lambda value, *options: "–" if value is None else form(value, *options)
