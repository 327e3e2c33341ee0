"""The error of a configuration that cannot be. In: nothing. Out: an exception type. Must not know: who raises it."""

from __future__ import annotations


class BadConfig(ValueError):
    """One line: which key, what it must be, what it is."""
