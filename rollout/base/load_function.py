"""Functions that a configuration names: "pkg.mod:fn".

In: the name. Out: the function, or BadInput in one line that says why there is none. Must not know: what it is for.
(A file of its own because `reward.sandbox` imports it in every grading process: nothing here but the standard library.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rollout.base.errors import BadInput


def load_function(spec: str, key: str) -> Callable[..., Any]:
    """The function that `spec` ("pkg.mod:fn", also "pkg.mod:Class.fn") names; `key` is what the message calls it."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise BadInput(f"{key}={spec!r} must read pkg.mod:fn")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module's own code raises, the person sees it in one line
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        hint = "; put its folder on PYTHONPATH" if absent else ""
        raise BadInput(f"{key}={spec}: cannot import {module_name} ({one_line(error)}){hint}") from error
    for part in name.split("."):
        owner, found = found, getattr(found, part, None)
        if found is None:
            from difflib import get_close_matches

            near = get_close_matches(part, dir(owner), n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise BadInput(f"{key}={spec}: {module_name} has no function {name}{hint}")
    if not callable(found):
        raise BadInput(f"{key}={spec}: {name} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def one_line(error: BaseException) -> str:
    """Example: "ValueError: what str(error) says, on one line"."""
    try:
        text = str(error)
    except Exception as another:  # somebody's own __str__
        text = f"(its text raised {type(another).__name__})"
    return f"{type(error).__name__}: {' '.join(text.split())[:500]}"
