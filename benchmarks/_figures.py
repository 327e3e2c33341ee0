"""What every benchmark prints: a JSON line a figure on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def figure(name: str, value: float, unit: str, goal: float | None = None) -> None:
    """goal: what the figure is to reach; None where there is none."""
    rounded = float(f"{value:.4g}")
    print(json.dumps({"figure": name, "value": rounded, "unit": unit, "goal": goal}), flush=True)
