"""Calls to actors without knowing Ray: a call returns a future at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Future(Protocol):
    """The result of one call. As an argument of another call its value goes to that actor directly."""

    def wait(self) -> Any:
        """The value; raises what the call raised, or an error that names who waited for whom."""

    def done(self) -> bool:
        """Whether `wait` would return (or raise) at once."""


class Handle(Protocol):
    """An actor, or a plain object in its place."""

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Future: ...


# Waits for all futures and returns their values, in order.
WaitAll = Callable[[list[Any]], list[Any]]


def in_order(futures: list[Any]) -> list[Any]:
    """`WaitAll` for handles whose calls cannot wait for each other."""
    return [future.wait() for future in futures]
