"""Members of a sweep on this machine: one process each, so that one that fails or is killed takes no other along.

In: words behind `thinkless`, a log file. Out: `Running`s, which say when and how they ended. Must not know: sweeps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.lock import handed_on, holder, process_on

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "orchestrator")
TAIL_BYTES = 4096  # of a log that are read for its last line
ERROR = "thinkless: "  # how the line begins that says why a command failed


@dataclass(frozen=True)
class Ended:
    good: bool
    error: str | None = None  # in one line


class Running(Protocol):
    """A member that has been started."""

    def ended(self) -> Ended | None:
        """None while it runs."""

    def doing(self) -> str:
        """The last line that it wrote; empty where that is not known."""

    def stop(self) -> None:
        """Ask it to save a checkpoint and to end; a second time: to end at once. Does not wait."""


class Process:
    """A member in a process of its own, with a session of its own: Ctrl-C in the terminal does not reach it."""

    def __init__(self, words: list[str], log: Path, traceback: bool = True):
        """traceback: of its error goes to the log. Raises RunError where no process can be started."""
        note(log, command_line(*words))
        self._log, self._begin = log, log.stat().st_size
        with log.open("ab") as out, handed_on(lock_of(log)) as lock:
            try:
                self._process = subprocess.Popen(
                    [*PROGRAM, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **({"THINKLESS_TRACEBACK": "1"} if traceback else {})},
                    pass_fds=lock,
                )
            except OSError as error:
                raise RunError(f"no process can be started ({error})") from error

    def ended(self) -> Ended | None:
        code = self._process.poll()
        if code is None:
            return None
        lock_of(self._log).unlink(missing_ok=True)
        return Ended(True) if code == 0 else Ended(False, _reason(self._log, self._begin, code))

    def doing(self) -> str:
        return last_line(self._log)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)


class Adopted:
    """A member that was started by a sweep that is gone. It holds the lock beside its log, later its run folder's."""

    def __init__(self, lock: Path, log: Path, finished: Callable[[], bool]):
        self._lock, self._log, self._finished = lock, log, finished

    @staticmethod
    def runs(lock: Path, log: Path) -> bool:
        return holder(lock_of(log)) is not None or holder(lock) is not None

    def ended(self) -> Ended | None:
        if self.runs(self._lock, self._log):
            return None
        lock_of(self._log).unlink(missing_ok=True)
        return Ended(True) if self._finished() else Ended(False, _reason(self._log, 0, None))

    def doing(self) -> str:
        return last_line(self._log)

    def stop(self) -> None:
        found = process_on(holder(self._lock) or "")
        if found and found[1] == socket.gethostname():
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGTERM)


def lock_of(log: Path) -> Path:
    """What a member holds while it runs, beside its log."""
    return log.with_suffix(".lock")


def note(log: Path, line: str) -> None:
    """Add a line of the sweep's own to a member's log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')}: {line}\n")


def last_line(log: Path) -> str:
    """Of a file that is being written; empty where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return last(file.read().decode(errors="replace"))


def last(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _reason(log: Path, begin: int, code: int | None) -> str:
    """Why a member failed, from what it wrote after `begin` (bytes)."""
    if killed := killed_by(code):
        return killed
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    said = last("\n".join(lines))[:500]
    return reason(lines) or said or ("it ended early" if code is None else f"exit code {code}")


def reason(lines: list[str]) -> str:
    """The last line that says why a command failed; empty where there is none."""
    return ([line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)] or [""])[-1][:500]


def killed_by(code: int | None) -> str:
    """Example: -9, or a shell's 137 -> "killed by SIGKILL"; empty for a command that ended by itself, or in order."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    return (
        f"killed by {signal.Signals(number).name}" if number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT) else ""
    )
