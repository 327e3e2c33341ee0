"""Spans: what an actor did when, for the timeline of a run.

In: named stretches of work. Out: `Span`s in seconds since the epoch (one clock for all actors of a host). Must not
know: files, charts, who collects them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

JOIN_S = 0.002  # stretches of the same kind this close together are one
KEPT = 65_536  # spans while nobody collects them; older ones are dropped


# What the driver waits for: the kinds of its spans.
FOR_TRAJECTORIES, FOR_VERDICTS = "waiting for trajectories", "waiting for verdicts"
FOR_LEARNER, FOR_WEIGHTS = "waiting for the learner", "waiting for the weight sync"
# Why a rollout worker samples nothing: the kinds of its spans.
NO_WEIGHTS, NO_PROMPTS, ASLEEP = "waiting for weights", "waiting for prompts", "asleep"


@dataclass(frozen=True, slots=True)
class Span:
    kind: str  # "sampling", "loading weights", "waiting for weights", "grading", "learning", "publishing", ...
    begin: float  # seconds since the epoch
    end: float


class Spans:
    """The spans of one actor since they were last taken. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: deque[Span] = deque(maxlen=KEPT)
        self._open: dict[object, tuple[str, float]] = {}  # bodies of `of` that are running

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Record the body as a span, also when it raises."""
        key = object()
        with self._lock:
            self._open[key] = (kind, time.time())
        try:
            yield
        finally:
            with self._lock:
                _, begin = self._open.pop(key)
                self._end(kind, begin, time.time())

    def add(self, kind: str, begin: float, end: float) -> None:
        """Record a span; one that follows another of its kind at once makes that one longer."""
        with self._lock:
            self._end(kind, begin, end)

    def take(self) -> list[Span]:
        """All spans since the last call, in the order of their ends.

        What is still under way is given as far as it has come, the rest of it by the next call.
        """
        with self._lock:
            now = time.time()
            for key, (kind, begin) in self._open.items():
                self._end(kind, begin, now)
                self._open[key] = (kind, max(begin, now))
            taken = list(self._ended)
            self._ended.clear()
        return taken

    def _end(self, kind: str, begin: float, end: float) -> None:
        last = self._ended[-1] if self._ended else None
        if last is not None and last.kind == kind and 0 <= begin - last.end <= JOIN_S:
            begin = self._ended.pop().begin
        self._ended.append(Span(kind, begin, max(begin, end)))  # a clock that was set back makes no negative span


@dataclass(frozen=True, slots=True)
class Pulse:
    """Sign of life of an actor, given by a thread that has nothing else to do."""

    born: float  # seconds since the epoch; another value: the actor was restarted
    done: int = 0  # pieces of work so far, of those that take seconds as a rule
    at_work: bool = False  # on such a piece
    computed: float = 0.0  # seconds of processor time so far


class Traced:
    """Base class of actors whose work is on a run's timeline: their `spans`, and the two calls that collect them."""

    def __init__(self) -> None:
        self.spans, self.born = Spans(), time.time()

    def pulse(self) -> Pulse:
        """Waits for nothing."""
        return Pulse(self.born)

    def clock(self) -> float:
        """This host's seconds since the epoch."""
        return time.time()

    def take_spans(self) -> list[Span]:
        """The spans since the last call."""
        return self.spans.take()


def spent(kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a method of a `Traced` class: each call is a span."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.spans.of(kind):
                return method(self, *args, **kwargs)

        return call

    return decorate
