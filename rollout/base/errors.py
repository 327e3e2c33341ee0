"""Errors that every package raises."""

from __future__ import annotations


class BadInput(ValueError):
    """One line: what is wrong, where, and what to do about it. Shown without a traceback."""


class EngineDied(RuntimeError):
    """A rollout worker's engine failed and samples no more; its process must end."""


class RankLost(TimeoutError):
    """A learner rank waited in vain for another one: which rank, in which call."""


def in_one_line(error: BaseException, limit: int = 600) -> str:
    """`error` in one line of at most `limit` characters: its type, all of its message, and the first error behind it.

    pydantic's report of a validation is reduced to what was wrong; a cause whose message is repeated is left out.
    """
    first = root = error
    while behind := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = behind
    text, cause = _named(first), _message(root)
    if root is not first and cause and cause not in text:
        text = f"{text}; caused by {_named(root)}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_message(error) or 'no message'}"


def _message(error: BaseException) -> str:
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, not imported here
        return "; ".join(" ".join(str(one["msg"]).removeprefix("Value error, ").split()) for one in error.errors())
    return " ".join(str(error).split())
