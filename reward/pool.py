"""A pool of killable processes: every call gets a reply.

In: calls, one at a time (`submit`, `completed`) or as a batch (`run`). Out: one `Reply` per call. Must not know: what
is called, answers, rewards.

Who waits for whom: the pool waits on all sandboxes' sockets and on the nearest deadline; a sandbox that dies closes its
socket and wakes the pool. A call past its deadline is ended with SIGKILL, since nothing less stops a big-integer power
in C. Calls are queued here, not in sockets: a sandbox has its current call and, while many are queued, the next few
short ones, so that it need not wait for the pool between two; if the current one takes long, the others are reassigned.

Calls that hang have a budget (`hung_s`, renewed by the owner for each batch): what they took until they were killed,
and what starting the next process took. Once it is spent, so that a batch of nothing but hanging calls ends, the limit
of a call falls to a twentieth, in which an ordinary one still ends; once it is spent twice, calls that have not begun
are given up.
(Why not `pebble`: an idle worker's death breaks its whole pool, and a worker hung in C gets three more seconds.)
"""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from reward.sandbox import Call, Sandbox
from rollout.base.errors import BadInput


class Status(Enum):
    DONE = "done"  # value: what the function returned
    RAISED = "raised"  # value: "ValueError: ..."
    TIMED_OUT = "timed_out"  # killed after the limit
    DIED = "died"  # the process died twice under this call


@dataclass(frozen=True, slots=True)
class Reply:
    status: Status
    value: Any
    seconds: float  # of the call in its process, or until that was killed


@dataclass(slots=True, eq=False)
class Task:
    ticket: int
    call: Call
    message: bytes | None = None  # the pickled call, once it is about to be sent
    died: bool = False  # a process has died while running it


Ended = tuple[int, Reply]  # ticket and reply

_START_S = 120.0  # within which a process must be ready
_STARTS = 3  # consecutive deaths of starting processes after which start-up itself is considered broken
_REDUCED = 0.05  # of the limit, once the budget is spent
_AHEAD = 3  # calls that a sandbox may hold besides its current one,
_AHEAD_BYTES = 8192  # each no longer than this, so that writing to a socket never blocks on a busy sandbox
_LONGEST_S = 86_400.0  # of one wait: poll's milliseconds are an int of C
_STALL_S = 0.1  # run time of a sandbox's current call after which its queued ones are reassigned


class Pool:
    """Runs calls in `processes` sandboxes, each started when a call first needs it.

    `timeout_s` applies to each call from when a ready sandbox begins it; starting a process and waiting for a free one
    do not count. hung_s: of each process, see above; None: no bound.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float,
        memory_mib: int,
        warm: Call | None = None,
        hung_s: float | None = None,
    ) -> None:
        if processes < 1 or timeout_s <= 0:
            raise BadInput(f"processes must be at least 1 and timeout_s positive, got {processes} and {timeout_s}")
        self.processes, self.timeout_s, self.memory_mib, self.warm = processes, timeout_s, memory_mib, warm
        self.budget_s = None if hung_s is None else hung_s * processes
        self._hung = 0.0  # seconds of the budget that are spent
        self._killed = 0  # processes whose call hung, and in whose place none is ready yet
        self.sandboxes: list[Sandbox] = []
        self.under_way = 0  # submitted calls whose reply has not been returned
        self._tickets = itertools.count()
        self._waiting: deque[Task] = deque()
        self._failed_starts = 0  # in a row
        self._lock = threading.RLock()
        self._finalizer = weakref.finalize(self, _stop_all, self.sandboxes)

    @property
    def limit_s(self) -> float:
        """Of a call, now."""
        return self.timeout_s * (_REDUCED if self.budget_s is not None and self._hung >= self.budget_s else 1.0)

    def renew_budget(self) -> None:
        """A batch begins."""
        with self._lock:
            self._hung, self._killed = 0.0, 0

    def start(self) -> None:
        """Start every sandbox now and wait until all are ready; BadInput if their warm-up fails."""
        with self._exclusive():
            while len(self.sandboxes) < self.processes or not all(sandbox.ready for sandbox in self.sandboxes):
                self._fill(self.processes)
                self._wait_once(None, ())

    def close(self) -> None:
        self._finalizer.detach()
        with self._lock:
            self._reset()
            self.processes = 0

    def run(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply per call, in order."""
        with self._lock:
            if self.under_way:
                raise RuntimeError(f"{self.under_way} submitted calls are under way")
            tickets = [self.submit(call) for call in calls]
            replies: dict[int, Reply] = {}
            while len(replies) < len(calls):
                replies.update(self.completed())
            return [replies[ticket] for ticket in tickets]

    def submit(self, call: Call) -> int:
        """Queue a call; it begins at once if a sandbox is free. The ticket identifies its reply."""
        with self._exclusive():
            if not self.processes:
                raise RuntimeError("this pool is closed")
            task = Task(next(self._tickets), call)
            self._waiting.append(task)
            self.under_way += 1
            self._dispatch()
            return task.ticket

    def completed(self, timeout_s: float | None = None, beside: Sequence[Any] = ()) -> list[Ended]:
        """All replies available, after waiting for at least one.

        Empty if `timeout_s` has passed, one of `beside` (sockets, pipes, files) is readable, or no call is running and
        `beside` is empty.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._exclusive():
            while self.under_way or beside:
                ended, enough = self._wait_once(until, beside)
                if ended or enough:
                    return ended
            return []

    # ------------------------------------------------------------------

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One thread at a time. Any error, even Ctrl-C, ends all sandboxes: a busy one would answer a later call."""
        with self._lock:
            try:
                yield
            except BaseException:
                self._reset()
                raise

    def _wait_once(self, until: float | None, beside: Sequence[Any]) -> tuple[list[Ended], bool]:
        """Wait for one event: (replies, whether time is up or one of `beside` is readable)."""
        self._dispatch()
        poller, nearest = select.poll(), math.inf if until is None else until
        for one in beside:
            poller.register(one, select.POLLIN)
        for sandbox in self.sandboxes:
            poller.register(sandbox.pipe.fileno(), select.POLLIN)
            nearest = min(nearest, self._deadline(sandbox))
        wait_s = nearest - time.monotonic()
        wait_ms = None if wait_s == math.inf else math.ceil(1000 * min(max(wait_s, 0.0), _LONGEST_S))
        woken = {fd for fd, _ in poller.poll(wait_ms)}
        now = time.monotonic()
        ended: list[Ended] = []
        for sandbox in list(self.sandboxes):
            there = sandbox.pipe.fileno() in woken
            woken.discard(sandbox.pipe.fileno())
            if there and not sandbox.ready:
                self._read_ready(sandbox)
            elif there:
                ended += self._receive(sandbox, now)
            elif not sandbox.ready and now - sandbox.started > _START_S:
                raise BadInput(f"a grading process was not ready after {_START_S:g} s")
            elif sandbox.tasks and now - sandbox.started > self.limit_s:
                self._hung += now - sandbox.started
                self._killed += 1
                ended += self._end(sandbox, sandbox.tasks[0], Status.TIMED_OUT, now)
            elif now - sandbox.started > _STALL_S:
                self._take_back(sandbox)
        if self.budget_s is not None and self._hung >= 2 * self.budget_s:
            ended += [(task.ticket, Reply(Status.TIMED_OUT, None, 0.0)) for task in self._waiting]
            self._waiting.clear()
        self._dispatch()  # so that no sandbox is idle while the caller handles these
        self.under_way -= len(ended)
        return ended, bool(woken) or (until is not None and now >= until)

    def _deadline(self, sandbox: Sandbox) -> float:
        """When to act on this sandbox if it stays silent."""
        if not sandbox.ready:
            return sandbox.started + _START_S
        if not sandbox.tasks:
            return math.inf
        return sandbox.started + (min(_STALL_S, self.limit_s) if any(_behind(sandbox)) else self.limit_s)

    def _receive(self, sandbox: Sandbox, now: float) -> list[Ended]:
        message = sandbox.receive()
        if message is None:  # killed; if it was idle, no call loses its retry
            task = sandbox.tasks[0] if sandbox.tasks else None
            if task is None or task.died:
                return self._end(sandbox, task, Status.DIED, now)
            task.died = True
            self._end(sandbox, None, Status.DIED, now)
            self._waiting.appendleft(task)  # may not be its fault: retry once
            return []
        task, sandbox.started = sandbox.tasks.popleft(), now
        status, value, seconds = message
        reply = Reply(Status.DONE if status == "done" else Status.RAISED, value, seconds)
        return [] if task is None else [(task.ticket, reply)]

    def _end(self, sandbox: Sandbox, task: Task | None, status: Status, now: float) -> list[Ended]:
        """End a sandbox, and `task`, its current one."""
        self._take_back(sandbox)
        self._drop(sandbox)
        reason = f"process ended: {sandbox.process.returncode}" if status is Status.DIED else None
        return [] if task is None else [(task.ticket, Reply(status, reason, now - sandbox.started))]

    def _take_back(self, sandbox: Sandbox) -> None:
        """Reassign the calls queued behind this sandbox's current one; its duplicate results are ignored."""
        behind = [task for task in _behind(sandbox) if task is not None]
        if behind:
            self._waiting.extendleft(reversed(behind))
            sandbox.tasks = deque([sandbox.tasks[0], *[None] * (len(sandbox.tasks) - 1)])

    def _dispatch(self) -> None:
        """Give queued calls to sandboxes, and start as many as the calls can use."""
        if not self._waiting:
            return
        for sandbox in list(self.sandboxes):
            if sandbox.ready and not sandbox.tasks and not sandbox.alive:
                self._drop(sandbox)
        for sandbox in self.sandboxes:
            if sandbox.ready and not sandbox.tasks and self._waiting:
                sandbox.started = time.monotonic()
                self._give(sandbox)
        for sandbox in self.sandboxes:
            while (
                0 < len(sandbox.tasks) <= _AHEAD and len(self._waiting) > self.processes and None not in sandbox.tasks
            ):
                if len(self._message(self._waiting[0])) > _AHEAD_BYTES or time.monotonic() - sandbox.started > _STALL_S:
                    break
                self._give(sandbox)
        self._fill(min(self.processes, self.under_way))

    def _give(self, sandbox: Sandbox) -> None:
        task = self._waiting.popleft()
        sandbox.tasks.append(task)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it just died, which reading will show
            sandbox.pipe.send_bytes(self._message(task))

    def _message(self, task: Task) -> bytes:
        if task.message is None:
            task.message = pickle.dumps(task.call)
        return task.message

    def _fill(self, count: int) -> None:
        while len(self.sandboxes) < count:
            self.sandboxes.append(Sandbox(self.memory_mib, self.timeout_s, self.warm))

    def _drop(self, sandbox: Sandbox) -> None:
        sandbox.stop()  # before removing it: after an interrupt in between, `_stop_all` still sees it
        self.sandboxes.remove(sandbox)

    def _reset(self) -> None:
        """End every sandbox and forget every call."""
        _stop_all(self.sandboxes)
        self._waiting.clear()
        self.under_way = 0

    def _read_ready(self, sandbox: Sandbox) -> None:
        """Read the ready message. A warm-up that fails would always fail: raise instead of restarting."""
        message = sandbox.receive()
        if message is None:
            self._drop(sandbox)
            self._failed_starts += 1
            if self._failed_starts < _STARTS:
                return  # may have been killed from outside
            raise BadInput(
                f"{_STARTS} grading processes ended while starting (exit {sandbox.process.returncode}): is "
                f"reward.memory_mib, {self.memory_mib}, too small?"
            )
        status, value, _ = message
        if status != "done":
            self._drop(sandbox)
            if status == "rejected" and "MemoryError" not in value:  # the message names a cause outside this process
                raise BadInput(value)
            raise BadInput(f"a grading process (reward.memory_mib={self.memory_mib}) cannot start: {value}")
        self._failed_starts = 0
        sandbox.ready = True
        if self._killed:
            self._killed -= 1
            self._hung += time.monotonic() - sandbox.started


def _behind(sandbox: Sandbox) -> Iterator[Task | None]:
    return itertools.islice(sandbox.tasks, 1, None)


def _stop_all(sandboxes: list[Sandbox]) -> None:
    while sandboxes:
        sandboxes[-1].stop()
        sandboxes.pop()
