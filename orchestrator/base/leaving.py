"""The end of this process without waiting for anything, where an orderly one would take too long or for ever.

In: what is to be killed and said then, from whoever starts other processes or can say how to go on. Out:
one line on stderr, and no process. Must not know: why it ends.

It uses no lock that the main thread may hold, and no destructor or exit handler runs: those of other libraries may wait
for what does not answer any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

_kills: list[Callable[[], None]] = []
_notes: list[Callable[[], str]] = []
_said = threading.Event()
_left_by: list[int] = []  # the thread that leaves the process


@contextlib.contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """Should the process be left within the body, what note returns is added to the line."""
    _notes.append(note)
    try:
        yield
    finally:
        _notes.remove(note)


def kill_at_the_end(kill: Callable[[], None]) -> None:
    """Should the process be left before `ended_in_order(kill)`: call it."""
    _kills.append(kill)


def ended_in_order(kill: Callable[[], None]) -> None:
    with contextlib.suppress(ValueError):  # it was before
        _kills.remove(kill)


def due() -> bool:
    """Whether something has not ended in order, so that this process is to be left."""
    return bool(_kills)


def said() -> None:
    """The line that tells how the command ended has been printed: `leave` prints none."""
    _said.set()


def stay_if_left() -> None:
    """Does not return while another thread leaves the process: what is killed then may free this one from its wait."""
    if _left_by and _left_by[0] != threading.get_ident():
        threading.Event().wait()


def leave(line: str, code: int) -> None:
    """Print `line`, unless one was said; kill what is to be killed; end with exit code `code`. From any thread."""
    _left_by.append(threading.get_ident())
    stay_if_left()
    if not _said.is_set():
        _said.set()
        notes = []
        for note in reversed(_notes):
            with contextlib.suppress(Exception):  # what can be said is said
                notes.append(note())
        text = "; ".join([line, *filter(None, notes)])
        with contextlib.suppress(OSError):
            os.write(2, f"\nthinkless: {text}\n".encode())
    with contextlib.suppress(OSError):  # that is the last word: not a library's, whose server is killed
        silence = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(silence, number)
    for kill in reversed(_kills):
        with contextlib.suppress(Exception):  # what can be killed is killed
            kill()
    os._exit(code)


class Deadline:
    """Leaves the process after `seconds`, unless it is cancelled before."""

    def __init__(self, seconds: float, line: str, code: int):
        self._timer = threading.Timer(seconds, leave, (line, code))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()
