"""A tracker in a thread of its own, so that one that hangs or fails never holds up training.

In: how to open a tracker; lines with their steps. Out: whatever it writes; failures as a count and a line to be said
once. Must not know: which tracker it is.

Lines are queued. A tracker that raises is closed, and opened again at the first line that comes RETRY_S later; lines in
between do not reach it (metrics.jsonl has all of them).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

WAITING = 1000  # lines at most, then further ones are lost and counted
RETRY_S = 300.0
CLOSE_S = 30.0  # for what is queued when a run ends


class Tracker(Protocol):
    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """line: of metrics.jsonl; values: of histograms. Raises what goes wrong."""

    def close(self) -> None:
        """Everything that was written is kept."""


class Background:
    def __init__(
        self,
        name: str,
        start: Callable[[], Tracker],
        retry_s: float = RETRY_S,
        close_s: float = CLOSE_S,
        setting: str | None = None,
    ):
        """setting: of `tracker`, where it is called otherwise."""
        self.setting = setting or name
        self.name, self.start, self.retry_s, self.close_s = name, start, retry_s, close_s
        self.failures = 0  # so far
        self._said = 0
        self._unsaid: str | None = None
        self._tracker: Tracker | None = None
        self._again_at = 0.0  # no attempt before
        self._queue: queue.Queue[tuple[int, Mapping[str, Any], Mapping[str, Sequence[float]]] | None]
        self._queue = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """Returns at once."""
        try:
            self._queue.put_nowait((step, line, values))
        except queue.Full:
            self._failed(f"it is {WAITING} lines behind")

    def news(self) -> tuple[int, str | None]:
        """Failures since the last call, and a line about the first one ever."""
        failures, self._said = self.failures - self._said, self.failures
        unsaid, self._unsaid = self._unsaid, None
        return failures, unsaid

    def close(self) -> None:
        """Wait for what is queued, but no longer than `close_s`."""
        try:
            self._queue.put(None, timeout=self.close_s)
        except queue.Full:
            self._failed("it hangs")
            return
        self._thread.join(self.close_s)
        if self._thread.is_alive():
            self._failed(f"it did not end within {self.close_s:g} s")

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            if time.monotonic() < self._again_at:
                continue
            try:
                if self._tracker is None:
                    self._tracker = self.start()
                self._tracker.write(*job)
            except Exception as error:  # of any library, network or disk: none of them may end a run
                self._failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
                self._again_at = time.monotonic() + self.retry_s
                with contextlib.suppress(Exception):  # its failure has been counted
                    self._end()
        try:
            self._end()
        except Exception as error:
            self._failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _end(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def _failed(self, why: str) -> None:
        if not self.failures:
            self._unsaid = (
                f"tracker.{self.setting} failed ({why}): training goes on, metrics.jsonl has every figure; it is tried "
                f"again every {self.retry_s / 60:g} min"
            )
        self.failures += 1
