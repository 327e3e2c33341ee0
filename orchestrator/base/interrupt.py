"""Handles Ctrl-C (SIGINT) and SIGTERM: the first signal requests an orderly end, the second ends the process.

In: signals; what the running command promises to save (`saving`); reasons of this process's own to end (`request`).
Out: `Interrupted`, `EndedAtOnce`. Must not know: what is saved.

Outside of `saving` a first signal raises at once. Inside, it prints the promise and raises at a wait for actors
(`waiting_here`), never between two calls of a collective operation and never within `defer_signals`: a checkpoint holds
whole steps. The second signal raises at once, wherever the process is; further ones do not disturb the clean-up.

All this happens in the main thread, once it comes back to Python, which a call of Ray may never do. So a thread counts
signals as well, and while there is something to be killed (`orchestrator.base.leaving`), the process is left LEAVE_S
after the second one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from orchestrator.base.leaving import Deadline, due, stay_if_left

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LEAVE_S = 4.0  # after the second signal, for the clean-up


class Interrupted(KeyboardInterrupt):
    """A first signal inside `saving`: save, then end."""


class EndedAtOnce(KeyboardInterrupt):
    """A second signal, or a first one with nothing to save."""


@dataclass(slots=True)
class _State:
    number: int = 0  # of the first signal; 0: none yet
    raised: bool = False
    ended: bool = False  # an immediate end was requested
    reason: str = ""  # why this process itself requested the end; empty: it was a signal
    promise: str = ""  # what the first signal leads to; empty: it ends the command at once
    second: str = ""  # what a second one does
    defer_signals: int = 0
    waiting: bool = False


_state = _State()


class _Counter:
    """Counts signals in a thread of its own."""

    def __init__(self) -> None:
        self._deadline: Deadline | None = None
        self._heard = 0
        self._over = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while numbers := os.read(self._read, 64):
            self._heard += sum(number in SIGNALS for number in numbers)
            if self._heard > 1 and self._deadline is None and not self._over and due():
                self._deadline = Deadline(LEAVE_S, _state.reason or "interrupted", exit_code())

    def stop(self) -> None:
        self._over = True
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)
        if self._deadline is not None:
            self._deadline.cancel()


_counter: _Counter | None = None


def install() -> None:
    """Install the signal handlers. Only from the main thread."""
    global _state, _counter
    uninstall()
    _state, _counter = _State(), _Counter()
    for number in SIGNALS:
        signal.signal(number, _heard)


def uninstall() -> None:
    """Forget signals that were heard. Only from the main thread; whose handlers come next is the caller's matter."""
    global _state, _counter
    if _counter is not None:
        _counter.stop()
    _state, _counter = _State(), None


def request(reason: str) -> None:
    """What a signal does, from any thread: the first time an orderly end, then one at once. reason: said instead of
    "interrupted"; the exit code is 1. Without `install` nothing happens."""
    if _counter is not None:
        _state.reason = _state.reason or reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def reason() -> str:
    """Of the end, when it was this process's own; empty: a signal came from outside."""
    return _state.reason


def answered() -> bool:
    """Whether the main thread knows that it is to end."""
    return _state.raised


def exit_code() -> int:
    """128 + the signal's number, as shells report it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 1 if _state.reason else 128 + (_state.number or signal.SIGINT)


def requested() -> bool:
    """Whether a signal has requested the end."""
    return _state.number != 0


@contextlib.contextmanager
def saving(promise: str, second: str = "ends it at once and saves nothing") -> Iterator[None]:
    """A first signal in the body prints `promise` and what a second does. It is raised as `Interrupted` where that does
    no harm, at the latest when the body ends without an error."""
    before, _state.promise, _state.second = _state.promise, promise, second
    try:
        yield
        if _pending():
            _raise()
    finally:
        _state.promise = before


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """The body is finished before a first signal is raised. Also a decorator."""
    _state.defer_signals += 1
    try:
        yield
    finally:
        _state.defer_signals -= 1


@contextlib.contextmanager
def raise_signals() -> Iterator[None]:
    """Within `defer_signals`: a first signal is raised at a wait in the body, as if that was not there."""
    before, _state.defer_signals = _state.defer_signals, 0
    try:
        yield
    finally:
        _state.defer_signals = before


@contextlib.contextmanager
def waiting_here() -> Iterator[None]:
    """Around a wait for actors, where a first signal may be raised."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _state.waiting = _state.waiting, True  # before the check: a signal in between is raised by its handler
    try:
        if _pending() and not _state.defer_signals:
            _raise()
        yield
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt or not _state.raised:
            raise
        # a wait of Ray's that lasts a second raises one of its own in place of what the handler raised
        raise (EndedAtOnce if _state.ended else Interrupted) from None
    finally:
        _state.waiting = before


def _pending() -> bool:
    return _state.number != 0 and not _state.raised


def _raise() -> None:
    _state.raised = True
    raise Interrupted


def _heard(number: int, frame: FrameType | None) -> None:
    stay_if_left()
    if _state.ended:
        return
    first = not _state.number
    if first:
        _state.number = number
    if first and _state.promise:
        why, whose = (_state.reason, "Ctrl-C") if _state.reason else ("interrupted", "a second Ctrl-C")
        os.write(2, f"\n{why}: {_state.promise}; {whose} {_state.second}\n".encode())
        if _state.waiting and not _state.defer_signals:
            _raise()
        return
    _state.raised = _state.ended = True
    raise EndedAtOnce
