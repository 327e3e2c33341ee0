"""Prints what a command is waiting for, with seconds, so that it is never silent for long.

In: the name of a wait. Out: lines on stderr; on a terminal one line that counts the seconds. Must not know: how the
wait is done.

    with waiting("starting Ray"):
        ray.init()

prints "starting Ray" once that takes half a second, "starting Ray: 10 s" every ten seconds and "starting Ray: done in
12 s" at its end. Of waits within each other the innermost speaks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

FIRST_S, EVERY_S, REDRAW_S = 0.5, 10.0, 1.0
LONG_S = 2.0  # a longer wait gets a line at its end
LIBRARIES = "loading the libraries"  # what a command waits for first
_enabled = True
_open: list[waiting] = []  # that have begun; the innermost last


def say_reading(command: str) -> None:
    print(f"{command}: reading the settings", file=sys.stderr, flush=True)


def enable(on: bool) -> None:
    """Whether anything is printed (tracker.console)."""
    global _enabled
    _enabled = on


def is_terminal(file: TextIO) -> bool:
    """Whether a line can be redrawn there."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


class Ticker:
    """Calls `tick` from a thread of its own, after `first_s` and then every `every_s`, until it is stopped."""

    def __init__(self, tick: Callable[[], None], first_s: float, every_s: float):
        self._tick, self._first_s, self._every_s = tick, first_s, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = self._first_s
        while not self._over.wait(pause):
            self._tick()
            pause = self._every_s

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class waiting:
    def __init__(self, what: str, file: TextIO | None = None):
        self.what, self._file = what, file or sys.stderr
        self._said = False
        self._ticker: Ticker | None = None

    def __enter__(self) -> Self:
        if _enabled:
            self._begin = time.monotonic()
            self._redraws = is_terminal(self._file)
            _open.append(self)
            self._ticker = Ticker(self._say, FIRST_S, REDRAW_S if self._redraws else EVERY_S)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._ticker is None:
            return
        self._ticker.stop()
        _open.remove(self)
        spent = time.monotonic() - self._begin
        if self._said and (spent >= LONG_S or self._redraws):
            end = "done in" if kind is None else "stopped after"
            self._print(f"{self.what}: {end} {spent:.0f} s", last=True)

    def clear(self) -> None:
        """Before something else is printed: it begins on a line of its own."""
        if self._said and self._redraws:
            print("\r\x1b[K", end="", file=self._file, flush=True)

    def _say(self) -> None:
        if _open[-1] is not self:
            return
        spent = time.monotonic() - self._begin
        self._print(f"{self.what}: {spent:.0f} s" if self._said or self._redraws else self.what)
        self._said = True

    def _print(self, line: str, last: bool = False) -> None:
        begin, end = ("\r\x1b[K", "\n" if last else "") if self._redraws else ("", "\n")
        with contextlib.suppress(OSError):  # a terminal that is gone, a log on a full disk: nobody can read it
            print(f"{begin}{line}", end=end, file=self._file, flush=True)
