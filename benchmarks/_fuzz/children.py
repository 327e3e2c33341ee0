"""Tries cases in child processes, one after the other in each, that are killed when one takes too long.

In: a function that tries a case, cases. Out: an `Outcome` for each, in their order. Must not know: what a case is.

A child's own CPU time counts, so that a busy machine makes no hang; a case that waits instead has WAIT_S.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

import psutil

HANG_S, WAIT_S, LOOK_S = 5.0, 120.0, 0.25
FRESH = 500  # cases after which a child is replaced: what libraries leave behind must not add up


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str  # accepted, rejected, traceback, lines (more than one), hang, died
    text: str = ""  # what was printed
    seconds: float = 0.0


class _Child:
    def __init__(self, attempt: Callable[[Any], Outcome]) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(attempt, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.done = 0
        self.place: int | None = None  # of the case that it has
        self.since = self.cpu = 0.0

    def give(self, place: int, case: Any) -> None:
        self.connection.send(case)
        self.place, self.since, self.cpu = place, monotonic(), self._spent()

    def late(self, hang_s: float) -> bool:
        waited = monotonic() - self.since
        return waited > hang_s and (self._spent() - self.cpu > hang_s or waited > WAIT_S)

    def _spent(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def outcomes(
    attempt: Callable[[Any], Outcome], cases: Sequence[Any], processes: int, hang_s: float = HANG_S
) -> Iterator[tuple[Any, Outcome]]:
    """(case, outcome) for each, as they end. hang_s: of CPU time, after which a case hangs."""
    waiting = iter(range(len(cases)))
    children = [_Child(attempt) for _ in range(processes)]
    try:
        while True:
            for at, child in enumerate(children):
                if child.place is None and (place := next(waiting, None)) is not None:
                    if child.done >= FRESH:
                        child.end()
                        children[at] = child = _Child(attempt)
                    child.give(place, cases[place])
            busy = [child for child in children if child.place is not None]
            if not busy:
                return
            ready = {*wait([child.connection for child in busy], LOOK_S)}
            for child in busy:
                if child.connection in ready or child.late(hang_s):
                    outcome = (
                        _received(child)
                        if child.connection in ready
                        else Outcome("hang", f"more than {hang_s:g} s", hang_s)
                    )
                    assert child.place is not None
                    yield cases[child.place], outcome
                    child.place, child.done = None, child.done + 1
                    if outcome.kind in ("hang", "died"):
                        child.end()
                        children[children.index(child)] = _Child(attempt)
    finally:
        for child in children:
            child.end()


def _received(child: _Child) -> Outcome:
    try:
        found = child.connection.recv()
        assert isinstance(found, Outcome)
        return found
    except EOFError:
        child.process.join()
        return Outcome("died", f"exit code {child.process.exitcode}")


def _serve(attempt: Callable[[Any], Outcome], connection: Connection) -> None:
    gc.freeze()
    parent = os.getppid()
    while os.getppid() == parent:
        if connection.poll(1.0):
            connection.send(attempt(connection.recv()))
