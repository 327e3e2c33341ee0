"""Calls from any thread, run one after the other by the thread that owns an engine.

In: functions. Out: their results or exceptions, returned to whoever called. Must not know: engines, sampling.

    worker.mailbox.submit(f).result()    any thread: queue f, and wait until it has run
    mailbox.wait()                       the owner, when it has nothing else to do: until a call is queued
    mailbox.run_queued(busy)             the owner, between two steps
    mailbox.close(error)                 the owner, at its end: every call that has not run, and every later one, raises
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class _Call:
    do: Callable[[], Any]
    when_idle: bool
    result: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        try:
            self.result.set_result(self.do())
        except Exception as error:
            self.result.set_exception(error)


class Mailbox:
    def __init__(self) -> None:
        self._queued: deque[_Call] = deque()
        self._postponed: deque[_Call] = deque()  # until nothing runs
        self._changed = threading.Condition()
        self._closed_by: BaseException | None = None

    def __len__(self) -> int:
        """Calls that the owner has not looked at."""
        return len(self._queued)

    @property
    def draining(self) -> bool:
        """Calls wait until nothing runs: nothing new may begin."""
        return bool(self._postponed)

    def submit(self, do: Callable[[], Any], when_idle: bool = False) -> Future[Any]:
        """Queue a call. when_idle: it runs once nothing runs any more, and nothing begins before it has."""
        call = _Call(do, when_idle)
        with self._changed:
            if self._closed_by is not None:
                call.result.set_exception(self._closed_by)
            else:
                self._queued.append(call)
                self._changed.notify()
        return call.result

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._queued)

    def run_queued(self, busy: Callable[[], bool]) -> None:
        """Run every queued call. busy: whether something runs, which calls `when_idle` wait for."""
        while self._queued:
            call = self._queued.popleft()
            if call.when_idle and (busy() or self._postponed):
                self._postponed.append(call)
            else:
                call.run()
        while self._postponed and not busy():
            self._postponed.popleft().run()

    def close(self, error: BaseException) -> None:
        with self._changed:
            self._closed_by = error
            for call in (*self._postponed, *self._queued):
                call.result.set_exception(error)
            self._postponed.clear()
            self._queued.clear()
