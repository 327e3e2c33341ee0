"""The error of a configuration that cannot be. In: nothing. Out: an exception type. Must not know: who raises it."""

from __future__ import annotations

import re


class BadConfig(ValueError):
    """One line: which key, what it must be, what it is."""


def brief(message: str) -> str:
    """`message` with the middle of very long words left out: nobody reads 5,000 digits."""
    return re.sub(r"\S{300,}", lambda word: f"{word[0][:60]}...{word[0][-20:]}", message)
