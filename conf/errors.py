"""The error for an invalid configuration."""

from __future__ import annotations

import re


class BadConfig(ValueError):
    """One line: which key, what it must be, what it is."""


LONGEST = 2000  # characters of a message


def brief(message: str) -> str:
    """`message` without the middle of very long words, or of its whole: nobody reads 5,000 digits."""
    short = re.sub(r"\S{300,}", lambda word: f"{word[0][:60]}...{word[0][-20:]}", message)
    return short if len(short) <= LONGEST else f"{short[: LONGEST // 2]}...{short[-LONGEST // 4 :]}"
