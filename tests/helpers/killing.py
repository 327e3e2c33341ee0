"""A body in a child process that is killed at each of its calls in turn, or that meets a full disk."""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count

KILLED, FAILED = "killed", "failed"


def killed_everywhere(body: Callable[[], object]) -> Iterator[None]:
    """Runs `body` in children of this process, of which the n-th is killed (SIGKILL) before its n-th call of a function
    of C: of each system call, that is. Yields after each; the last child lives until the body's end."""
    for number in count():
        ended = _in_child(body, functools.partial(_kill_at, number))
        yield
        if ended == "":
            return
        assert ended == KILLED, ended


def on_a_full_disk(body: Callable[[], object], most: int) -> bool:
    """Runs `body` where no file may have more than `most` bytes: what does not fit is written in part, then refused.
    Returns whether it failed."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    ended = _in_child(body, limited)
    assert ended in ("", FAILED), ended
    return ended == FAILED


def _kill_at(number: int) -> None:
    left = number

    def seen(frame: object, event: str, function: object) -> None:
        nonlocal left
        if event == "c_call":
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(seen)


def _in_child(body: Callable[[], object], before: Callable[[], None]) -> str:
    """How it ended: "" in order, KILLED; FAILED: by an OSError; or what else became of it."""
    child = os.fork()
    if not child:
        code = 2
        try:
            before()
            body()
            code = 0
        except OSError:
            code = 1
        finally:
            sys.setprofile(None)
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return KILLED if os.WTERMSIG(status) == signal.SIGKILL else f"signal {os.WTERMSIG(status)}"
    return {0: "", 1: FAILED}.get(os.WEXITSTATUS(status), f"exit code {os.WEXITSTATUS(status)}")
