"""A killable process that runs calls.

In: calls, each a function's name ("pkg.mod:fn") with arguments. Out: what each returned or raised. Must not know: what
is called, answers, rewards, other sandboxes (`reward.pool`).

A sandbox is a fresh interpreter (not a fork, since its parent may hold Ray, torch and threads; not `multiprocessing`,
which would import the parent's main module again) with an address-space limit and a socket pair of its own. No lock is
shared, so it can be killed at any moment without affecting another one. It waits for its next call and exits when
the other end of its socket closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rollout.base.errors import BadInput
from rollout.base.load_function import load_function, one_line

Call = tuple[str, tuple[Any, ...]]  # ("pkg.mod:fn", arguments)


# ------------------------------------------------------------------ inside the process

_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from reward.sandbox import _serve
_serve(*json.loads(sys.argv[2]))
"""
_GRACE_S = 5.0  # beyond a call's limit, after which the kernel kills a process whose pool is gone


def _serve(fd: int, memory_mib: int, timeout_s: float, warm: list[Any] | None) -> None:
    """The process's main: limit memory, warm up, report ready, answer calls until the socket closes."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.set_inheritable(fd, False)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # keep what a function prints out of the command's stdout
    if memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Connection(fd)
    functions: dict[str, Callable[..., Any]] = {}

    def call(name: str, args: tuple[Any, ...]) -> tuple[str, Any, float]:
        start = time.perf_counter()
        if name not in functions:
            try:
                functions[name] = load_function(name, "function")
            except BadInput as error:
                return "raised", str(error), 0.0
        try:
            status, value = "done", functions[name](*args)
        except BadInput as error:  # its message is complete
            status, value = "rejected", str(error)
        except (Exception, SystemExit) as error:  # reported to the pool, which counts and logs it
            status, value = "raised", one_line(error)
        return status, value, time.perf_counter() - start

    try:
        pipe.send(call(warm[0], tuple(warm[1])) if warm else ("done", None, 0.0))
        while True:
            name, args = pipe.recv()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # no handler: the kernel kills the process
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
            status, value, seconds = call(name, args)
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                pipe.send((status, value, seconds))
            except (TypeError, ValueError, AttributeError) as error:  # the value cannot be pickled
                pipe.send(("raised", one_line(error), seconds))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the pool is gone
    except MemoryError:
        os._exit(1)  # a call too large to read: the pool sees the process die


# ------------------------------------------------------------------ outside


class Sandbox:
    """One process. Always `stop()` it, which kills it with all its children and reaps it."""

    def __init__(self, memory_mib: int, timeout_s: float, warm: Call | None) -> None:
        ours, theirs = socket.socketpair()
        path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
        arguments = json.dumps([theirs.fileno(), memory_mib, timeout_s, warm])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(path), arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # no Ctrl-C from the terminal, and one group to kill
            )
        self.pipe = Connection(ours.detach())
        self.ready = False
        self.tasks: deque[Any] = deque()  # unanswered calls, as its pool keeps them; it works on the first
        self.started = time.monotonic()  # when the process, later its first task, was started

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def receive(self) -> tuple[str, Any, float] | None:
        """The next (status, value, seconds) that it sent; None if it has died."""
        try:
            message: tuple[str, Any, float] = self.pipe.recv()
            return message
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.pipe.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
