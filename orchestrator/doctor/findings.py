"""What a check finds, and checks that cannot hang.

In: checks, generators of `Finding`s. Out: their findings as they come. Must not know: what is checked. Standard
library only.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

GIB = 2**30


class Finding(NamedTuple):
    """A line of the output."""

    text: str
    level: str = "ok"


def note(text: str) -> Finding:
    """Worth knowing."""
    return Finding(text, "note")


def problem(text: str) -> Finding:
    """It prevents a run; `text` says what to do."""
    return Finding(text, "PROBLEM")


class Told:
    """The findings of a command as its output: lines as they come, or JSON at the end."""

    def __init__(self, as_json: bool):
        self.as_json = as_json
        self._found: list[dict[str, str]] = []

    def add(self, area: str, one: Finding, line: str) -> None:
        """line: what is printed of it."""
        self._found.append({"area": area, "level": one.level, "text": one.text})
        if not self.as_json:
            print(f"{one.level:>7}  {line}", flush=True)

    def end(self, fine: str) -> None:
        """fine: the last line where nothing is a problem. Ends by SystemExit(1) where something is."""
        problems = sum(one["level"] == "PROBLEM" for one in self._found)
        if self.as_json:
            print(json.dumps({"problems": problems, "findings": self._found}, indent=1))
        else:
            print(f"{problems} problem(s)" if problems else fine)
        if problems:
            sys.exit(1)


HANGS = "a file system or a service there hangs; see `mount` and `dmesg`"


def within(seconds: float, name: str, check: Callable[[], Iterator[Finding]], why: str = HANGS) -> Iterator[Finding]:
    """The findings of `check`, run in a thread of its own that is left behind when it hangs: a file system that does
    not answer blocks whoever asks it, for ever. seconds: for each finding; why: the likely cause, and what to do."""
    found: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for one in check():
                found.put(one)
            found.put(None)
        except BaseException as error:  # raised again below
            found.put(error)

    threading.Thread(target=run, name=f"checking {name}", daemon=True).start()
    while True:
        try:
            one = found.get(timeout=seconds)
        except queue.Empty:
            yield problem(f"checking {name} did not end within {seconds:g} s: {why}")
            return
        if one is None:
            return
        if isinstance(one, BaseException):
            raise one
        yield one
