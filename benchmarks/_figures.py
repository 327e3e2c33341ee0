"""What every benchmark prints: a JSON line a figure on stdout, everything else on stderr; and its --small form.

A figure has the same name in the small form, but there it says only that the script still runs: it has no goal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

_state: dict[str, Any] = {"goals": True, "out": None}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def figure(name: str, value: float | None, unit: str, goal: float | str | None = None, **more: int) -> None:
    """goal: what the figure is to reach, None where there is none; value: None where nothing was measured; more: what
    else tells it from others of its name."""
    rounded = None if value is None else float(f"{value:.4g}")
    line = {"figure": name, "value": rounded, "unit": unit, "goal": goal if _state["goals"] else None, **more}
    print(json.dumps(line), file=_state["out"], flush=True)


def pass_on(line: str) -> None:
    """A line of figures that another script has printed."""
    print(line, end="", file=_state["out"], flush=True)


def add_small(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", action="store_true", help="everything once, as small as can be: seconds, no goals")


def without_goals() -> None:
    """From now on figures have no goal."""
    _state["goals"] = False


def figures_only() -> None:
    """From now on stdout has figures only; what libraries print there, this process's children included, goes to
    stderr."""
    _state["out"] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
