"""Errors of the rooms. In: nothing. Out: exception types. Must not know: what causes them."""

from __future__ import annotations


class BadInput(ValueError):
    """One line: what is wrong, where, and what to do about it. Shown without a traceback."""


class EngineDied(RuntimeError):
    """A rollout worker's engine failed and samples no more; its process must end."""
