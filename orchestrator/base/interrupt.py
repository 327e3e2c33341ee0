"""Handles Ctrl-C (SIGINT) and SIGTERM: the first signal requests an orderly end, the second ends the process.

In: signals; what the running command promises to save (`saving`). Out: `Interrupted`, `EndedAtOnce`. Must not know:
what is saved.

Outside of `saving` a first signal raises at once. Inside, it prints the promise and raises at a wait for actors
(`waiting_here`), never between two calls of a collective operation and never within `defer_signals`: a checkpoint holds
whole steps. The second signal raises at once, wherever the process is; further ones are ignored, so that they do not
disturb the clean-up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A first signal inside `saving`: save, then end."""


class EndedAtOnce(KeyboardInterrupt):
    """A second signal, or a first one with nothing to save."""


@dataclass(slots=True)
class _State:
    number: int = 0  # of the first signal; 0: none yet
    raised: bool = False
    ended: bool = False  # an immediate end was requested
    promise: str = ""  # what the first signal leads to; empty: it ends the command at once
    second: str = ""  # what a second one does
    defer_signals: int = 0
    waiting: bool = False


_state = _State()


def install() -> None:
    """Install the signal handlers. Only from the main thread."""
    global _state
    _state = _State()
    for number in SIGNALS:
        signal.signal(number, _heard)


def exit_code() -> int:
    """128 + the signal's number, as shells report it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_state.number or signal.SIGINT)


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
    first = not _state.number
    if first:
        _state.number = number
    if first and _state.promise:
        os.write(2, f"\ninterrupted: {_state.promise}; a second Ctrl-C {_state.second}\n".encode())
        if _state.waiting and not _state.defer_signals:
            _raise()
        return
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    _state.raised = _state.ended = True
    raise EndedAtOnce
