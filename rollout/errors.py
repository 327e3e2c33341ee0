"""BadInput: an error that the person who started the run can mend. Must not know: what causes it."""

from __future__ import annotations


class BadInput(ValueError):
    """One line: what is wrong, where, and what to do about it. Shown without a traceback."""
