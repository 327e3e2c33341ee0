"""A user's own reward function: `reward.function=pkg.mod:fn`.

    def fn(problem: str, response: str, answer: str | tuple[str, ...], mode: str | None) -> float

In: its name and one response. Out: a finite float, or a `Failure` with cause, file and line. It runs in a killable
process (`reward.pool`), with the same limits as any check. `response` is the text without its control token; `mode` is
a mode's name ("think", "short") or None (no control token); cut-off responses are passed as well. Must not know:
processes, outcomes.
"""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Callable
from typing import Any

from reward.verdict import Failure
from rollout.base.load_function import load_function, one_line

_TRACEBACK_CHARS = 4000


def check(name: str) -> None:
    """Import the function; one-line BadInput if that fails."""
    load_function(name, "reward.function")


def call(name: str, problem: str, response: str, answer: Any, mode: str | None) -> float | Failure:
    function = load_function(name, "reward.function")
    try:
        return _finite(name, function(problem, response, answer, mode))
    except (Exception, SystemExit) as error:  # whatever user code raises is data here
        return _failure(error, name, function)


def _finite(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must return a float, got {type(value).__name__}")
    reward = float(value)
    if not math.isfinite(reward):
        raise ValueError(f"{name} must return a finite float, got {reward}")
    return reward


def _failure(error: BaseException, name: str, function: Callable[..., Any]) -> Failure:
    """Located at the innermost frame in the function's own file, or at its definition (for a wrong return value)."""
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    code = getattr(inspect.unwrap(function), "__code__", None)
    if not lines and code is not None and code.co_filename == file:
        lines = [code.co_firstlineno]
    where = None if file is None else f"{file}:{lines[-1]}" if lines else file
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this file's own
    text = "".join(traceback.format_exception(type(error), error, frames))
    return Failure(one_line(error), where, text[-_TRACEBACK_CHARS:])
