"""Processes that may hang, crash or be killed, and a pool of them that always answers.

In: calls, each a function's name ("pkg.mod:fn") with arguments. Out: one `Reply` per call, in order. Must not know:
what is called, answers, rewards.

A cell is a fresh interpreter (not a fork: its parent may hold Ray, torch and threads; and not `multiprocessing`, which
would import the parent's main module again) with an address-space limit, talking over one socket pair of its own: no
lock is shared, so a cell may be killed at any moment without hurting another one. Who waits for whom: the pool waits on
all busy cells' sockets and on the nearest deadline; a cell's death closes its socket and wakes the pool; a cell waits
for its next call and ends when the pool's end of the socket closes. A call that overruns is ended with SIGKILL, because
nothing less stops a big-integer power in C. (`pebble` was read: an idle worker's death breaks its whole pool, and a
worker hung in C gets three more seconds.)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from typing import Any

from rollout.errors import BadInput

log = logging.getLogger(__name__)

Call = tuple[str, tuple[Any, ...]]  # ("pkg.mod:fn", arguments)


class Status(Enum):
    DONE = "done"  # value: what the function returned
    RAISED = "raised"  # value: "ValueError: ..."
    TIMED_OUT = "timed_out"  # killed after the limit
    DIED = "died"  # the process died twice under this call


@dataclass(frozen=True, slots=True)
class Reply:
    status: Status
    value: Any
    seconds: float


def load(name: str) -> Callable[..., Any]:
    """The function "pkg.mod:fn"; BadInput, in one line, when there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise BadInput(f"a function must be named pkg.mod:fn, got {name!r}")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises, the person needs to see it in one line
        raise BadInput(f"cannot import {module!r} of {name!r}: {_oneline(error)}") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise BadInput(f"{module!r} has no function {attribute!r}")
    function: Callable[..., Any] = found
    return function


def _oneline(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


# ------------------------------------------------------------------ inside the cell

_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from reward.cell import _serve
_serve(*json.loads(sys.argv[2]))
"""
_GRACE_S = 5.0  # beyond a call's limit, after which the kernel ends a cell whose pool is gone


def _serve(fd: int, memory_mib: int, timeout_s: float, warm: list[Any] | None) -> None:
    """The cell's whole life: limit memory, warm up, say ready, answer calls until the socket closes."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.set_inheritable(fd, False)
    if memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Connection(fd)
    functions: dict[str, Callable[..., Any]] = {}

    def call(name: str, args: tuple[Any, ...]) -> tuple[str, Any]:
        try:
            if name not in functions:
                functions[name] = load(name)
            return "done", functions[name](*args)
        except (Exception, SystemExit) as error:  # reported to the pool, which counts and logs it
            return "raised", _oneline(error)

    try:
        pipe.send(call(warm[0], tuple(warm[1])) if warm else ("done", None))
        while True:
            name, args = pipe.recv()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # no handler: the kernel itself ends the process
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
            status, value = call(name, args)
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                pipe.send((status, value))
            except (TypeError, ValueError, AttributeError) as error:  # the value cannot travel
                pipe.send(("raised", _oneline(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the pool is gone


# ------------------------------------------------------------------ outside


class Cell:
    """One process. Always `stop()` it: that kills it with all its children, and reaps it."""

    def __init__(self, memory_mib: int, timeout_s: float, warm: Call | None) -> None:
        ours, theirs = socket.socketpair()
        path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
        life = json.dumps([theirs.fileno(), memory_mib, timeout_s, warm])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(path), life],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # no terminal's Ctrl-C, and one group to kill
            )
        self.pipe = Connection(ours.detach())
        self.ready = False
        self.index: int | None = None  # of the call it works on
        self.started = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.pipe.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Pool:
    """Runs calls in `processes` cells, started on first use.

    `timeout_s` is each call's own, from when a ready cell gets it: neither the start of a process nor the wait for a
    free one counts.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float,
        memory_mib: int,
        warm: Call | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        if processes < 1 or timeout_s <= 0:
            raise BadInput(f"processes must be at least 1 and timeout_s positive, got {processes} and {timeout_s}")
        self.processes, self.timeout_s, self.memory_mib, self.warm = processes, timeout_s, memory_mib, warm
        self.start_timeout_s = start_timeout_s
        self.cells: list[Cell] = []
        self._lock = threading.Lock()  # one run at a time
        self._finalizer = weakref.finalize(self, _stop_all, self.cells)

    def start(self) -> None:
        """Start every cell now and wait until all are ready; BadInput when the warm-up fails there."""
        with self._lock:
            self._fill(self.processes)
            for cell in self.cells:
                if not cell.ready and cell.pipe.poll(self.start_timeout_s):
                    self._greet(cell)
                if not cell.ready:
                    raise BadInput(f"a grading process was not ready after {self.start_timeout_s:g} s")

    def close(self) -> None:
        self._finalizer.detach()
        with self._lock:
            _stop_all(self.cells)
            self.processes = 0

    def run(self, calls: Sequence[Call]) -> list[Reply]:
        if not calls:
            return []
        with self._lock:
            if not self.processes:
                raise RuntimeError("this pool is closed")
            try:
                return self._run(calls)
            except BaseException:  # also Ctrl-C: a cell still at work would answer into the next run
                _stop_all(self.cells)
                raise

    def _run(self, calls: Sequence[Call]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting = deque(range(len(calls)))
        deaths = [0] * len(calls)
        while len(replies) < len(calls):
            for cell in [cell for cell in self.cells if cell.index is None and not cell.alive]:
                self._drop(cell)  # killed while idle: costs no call its retry
            self._fill(min(self.processes, len(waiting) + sum(cell.index is not None for cell in self.cells)))
            for cell in self.cells:
                if cell.ready and cell.index is None and waiting:
                    self._give(cell, waiting.popleft(), calls)
            now = time.monotonic()
            nearest = min(
                cell.started + self._limit(cell) for cell in self.cells if cell.index is not None or not cell.ready
            )
            woken = wait([cell.pipe for cell in self.cells], max(0.0, nearest - now))
            now = time.monotonic()
            for cell in list(self.cells):
                index, seconds = cell.index, now - cell.started
                if cell.pipe in woken:
                    if not cell.ready:
                        self._greet(cell)
                        continue
                    try:
                        status, value = cell.pipe.recv()
                    except (EOFError, OSError):
                        self._drop(cell)
                        if index is not None:
                            deaths[index] += 1
                            if deaths[index] == 1:
                                waiting.appendleft(index)  # perhaps not its fault: once more
                            else:
                                replies[index] = Reply(
                                    Status.DIED, f"process ended: {cell.process.returncode}", seconds
                                )
                        continue
                    if index is not None:
                        replies[index] = Reply(Status(status), value, seconds)
                        cell.index = None
                elif seconds > self._limit(cell):
                    if not cell.ready:
                        raise RuntimeError(f"a grading process was not ready after {self.start_timeout_s:g} s")
                    if index is not None:
                        self._drop(cell)
                        replies[index] = Reply(Status.TIMED_OUT, None, seconds)
        return [replies[index] for index in range(len(calls))]

    def _limit(self, cell: Cell) -> float:
        return self.timeout_s if cell.ready else self.start_timeout_s

    def _fill(self, count: int) -> None:
        while len(self.cells) < count:
            self.cells.append(Cell(self.memory_mib, self.timeout_s, self.warm))

    def _drop(self, cell: Cell) -> None:
        self.cells.remove(cell)
        cell.stop()

    def _greet(self, cell: Cell) -> None:
        """Read the ready message. A warm-up that fails would fail for ever: say so instead of restarting."""
        try:
            status, value = cell.pipe.recv()
        except (EOFError, OSError):
            self._drop(cell)
            raise BadInput(
                f"a grading process ended while starting (exit {cell.process.returncode}): is reward.memory_mib, "
                f"{self.memory_mib}, too small?"
            ) from None
        if status != "done":
            self._drop(cell)
            raise BadInput(f"a grading process (reward.memory_mib={self.memory_mib}) cannot start: {value}")
        cell.ready = True

    def _give(self, cell: Cell, index: int, calls: Sequence[Call]) -> None:
        cell.index, cell.started = index, time.monotonic()
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it just died: seen as end-of-file, and retried
            cell.pipe.send(calls[index])


def _stop_all(cells: list[Cell]) -> None:
    while cells:
        cells.pop().stop()
