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
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from orchestrator.tracking.failures import Failures, in_words

WAITING = 1000  # lines at most, then further ones are lost and counted
RETRY_S = 300.0
THREADS = "tracker "  # what the names of trackers' threads begin with
CLOSE_S = 90.0  # for what is queued when a run ends; W&B may take 60 to begin


def threads_cpu_s() -> float:
    """CPU seconds of the trackers' threads that live, so far."""
    total = 0
    for thread in threading.enumerate():
        if thread.name.startswith(THREADS):
            with contextlib.suppress(OSError):  # it has just ended
                total += int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])
    return total / 1e9


class End(Enum):
    """How a run ended."""

    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"


class Tracker(Protocol):
    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """line: of metrics.jsonl; values: of histograms. Raises what goes wrong."""

    def close(self, end: End | None = None) -> None:
        """Everything that was written is kept. None: the run goes on, and it may be opened again."""


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
        self.failures = Failures(name)
        self._tracker: Tracker | None = None
        self._run_ended: End | None = None
        self._again_at = 0.0  # no attempt before
        self._queue: queue.Queue[tuple[int, Mapping[str, Any], Mapping[str, Sequence[float]]] | None]
        self._queue = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name=f"{THREADS}{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """Returns at once."""
        try:
            self._queue.put_nowait((step, line, values))
        except queue.Full:
            self._failed(f"it is {WAITING} lines behind")

    def close(self, end: End = End.finished, close_s: float | None = None) -> None:
        """Wait for what is queued, but no longer than `close_s`."""
        self._run_ended, close_s = end, self.close_s if close_s is None else close_s
        try:
            self._queue.put(None, timeout=close_s)
        except queue.Full:
            self._failed("it hangs")
            return
        self._thread.join(close_s)
        if self._thread.is_alive():
            self._failed(f"it did not end within {close_s:g} s")

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            if time.monotonic() < self._again_at:
                continue
            try:
                if self._tracker is None:
                    self._tracker = self.start()
                self._tracker.write(*job)
            except Exception as error:  # of any library, network or disk: none of them may end a run
                self._failed(in_words(error))
                self._again_at = time.monotonic() + self.retry_s
                with contextlib.suppress(Exception):  # its failure has been counted
                    self._end(None)
        try:
            self._end(self._run_ended)
        except Exception as error:
            self._failed(in_words(error))

    def _end(self, end: End | None) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close(end)

    def _failed(self, why: str) -> None:
        self.failures.add(
            f"tracker.{self.setting} failed ({why}): training goes on, metrics.jsonl has every figure; it is tried "
            f"again every {self.retry_s / 60:g} min"
        )
