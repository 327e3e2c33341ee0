"""Calls that are answered in the caller's process and at once, for code that waits for actors' answers.

In: values, or an actor's body. Out: what `rollout.base.handle` describes. Must not know: what is called.
"""

from __future__ import annotations

from typing import Any


class Ready:
    """An answer that is there already."""

    def __init__(self, value: Any):
        self.value = value

    def wait(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True


class Local:
    """An actor's body, called in this process."""

    def __init__(self, body: Any):
        self.body = body

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Ready:
        return Ready(getattr(self.body, method)(*args))
