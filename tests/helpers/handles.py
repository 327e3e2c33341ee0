"""Handles without Ray: a body that is called directly, and a worker that answers only when the test says so.

Both have the interface of `rollout.base.handle.Handle`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from rollout.request import RolloutRequest, RolloutResult

InThread = Callable[..., "Future[Any]"]  # of the fixture `in_thread`


class LocalFuture:
    """A value that is there at once or, with `ended=False`, from `answer` on."""

    def __init__(self, value: Any = None, ended: bool = True):
        self.value, self.ended = value, ended

    def answer(self, value: Any) -> None:
        self.value, self.ended = value, True

    def wait(self) -> Any:
        assert self.ended, "nobody answers"
        return self.value

    def done(self) -> bool:
        return self.ended


class LocalHandle:
    """The body of an actor, called in this process."""

    def __init__(self, body: Any):
        self.body = body
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        values = tuple(arg.wait() if isinstance(arg, LocalFuture) else arg for arg in args)
        self.calls.append((method, values))
        return LocalFuture(getattr(self.body, method)(*values))


class PendingHandle:
    """Records calls; none is answered before `finish`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: list[LocalFuture] = []

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        self.calls.append((method, args))
        self.answers.append(LocalFuture(ended=False))
        return self.answers[-1]

    @property
    def requests(self) -> list[RolloutRequest]:
        """Those of the `sample` calls."""
        return [args[0] for method, args in self.calls if method == "sample"]

    def finish(self, length: int) -> None:
        """Answer the last request with `length` tokens for each response."""
        count = len(self.requests[-1].siblings)
        tokens = np.zeros(count * length, np.int32)
        flags = np.zeros(count, np.uint8)
        lengths = np.full(count, length, np.int32)
        self.answers[-1].answer(
            RolloutResult(
                lengths,
                tokens,
                tokens.astype(np.float32),
                tokens,
                (None,) * count,
                flags,
                False,
                count * length,
                0.0,
                1.0,
            )
        )
