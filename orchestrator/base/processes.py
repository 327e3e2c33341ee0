"""Processes of this host: which there are, in what state, and the end of those that this one has started.

In: /proc. Out: `Process`es; `Family`, which kills. Must not know: what they are. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GONE_S = 2.0  # that killed processes may take to go: one in the midst of a long system call ends after it
STOPPED, DEAD = "Tt", "ZX"  # states in /proc: by a signal or a debugger; a child that nobody has asked about, ended


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    begin: int  # clock ticks since the host was started: with it, a number that is used again is another process
    state: str  # one letter, see proc(5)

    @property
    def lives(self) -> bool:
        return self.state not in DEAD

    @property
    def stopped(self) -> bool:
        """It does nothing until it is told to go on (SIGSTOP, a debugger)."""
        return self.state in STOPPED


def process(pid: int) -> Process | None:
    """None: there is none of this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return Process(pid, int(fields[1]), int(fields[19]), fields[0])


def processes() -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def words(pid: int) -> list[str]:
    """Its command line; empty: it has ended, or is hidden."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


class Family:
    """This process's descendants, also those whose parents have died: whom `look` has seen is remembered."""

    def __init__(self) -> None:
        self._begins: dict[int, int] = {}  # pid -> begin
        self._lock = threading.Lock()

    def look(self) -> list[Process]:
        """Those that live now."""
        with self._lock:
            there = {one.pid: one for one in processes() if one.lives}
            known = {pid for pid, begin in self._begins.items() if pid in there and there[pid].begin == begin}
            children: dict[int, list[int]] = {}
            for one in there.values():
                children.setdefault(one.parent, []).append(one.pid)
            known, fresh = set(), [os.getpid(), *known]
            while fresh:
                pid = fresh.pop()
                if pid not in known:
                    known.add(pid)
                    fresh += children.get(pid, [])
            known.discard(os.getpid())
            self._begins = {pid: there[pid].begin for pid in known}
            return [there[pid] for pid in known]

    def kill(self, which: Callable[[Process], bool] = lambda one: True) -> None:
        """End them, stopped ones too, and those that they start meanwhile. Waits until they are gone, for a moment at
        most."""
        end = time.monotonic() + GONE_S
        while living := [one for one in self.look() if which(one)]:
            for one in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(one.pid, signal.SIGKILL)
            if time.monotonic() > end:
                return
            time.sleep(0.05)
