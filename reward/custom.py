"""A person's own reward function: `reward.function=pkg.mod:fn`.

    def fn(problem: str, response: str, answer: str | tuple[str, ...], mode: str | None) -> float

In: its name and one response. Out: a finite float, or an error that says why there is none. It runs in a killable
process (`reward.pool`), under the same limits as any check. `response` is the text without its control token; `mode` is
"think", "short" or None (no control token); cut-off responses come here as well. Must not know: processes, outcomes.
"""

from __future__ import annotations

import math
from typing import Any

from rollout.function import load_function


def check(name: str) -> None:
    """Import it; BadInput in one line when that fails."""
    load_function(name, "reward.function")


def call(name: str, problem: str, response: str, answer: Any, mode: str | None) -> float:
    value = load_function(name, "reward.function")(problem, response, answer, mode)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must return a float, got {type(value).__name__}")
    reward = float(value)
    if not math.isfinite(reward):
        raise ValueError(f"{name} must return a finite float, got {reward}")
    return reward
