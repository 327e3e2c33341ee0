"""The error for an invalid configuration."""

from __future__ import annotations

import re


class BadConfig(ValueError):
    """One line: which key, what it must be, what it is."""


def brief(message: str) -> str:
    """`message` without the middle of very long words: nobody reads 5,000 digits."""
    return re.sub(r"\S{300,}", lambda word: f"{word[0][:60]}...{word[0][-20:]}", message)
