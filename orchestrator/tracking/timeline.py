"""The timeline of a run: asks every actor what it did, writes timeline.json, says who worked for how much of the time.

In: handles of all actors, the loop's steps. Out: timeline.json, and each step's figures
(`orchestrator.tracking.utilization`). Must not know: what the actors do, Ray.

It never waits for an actor. At the end of a step every actor is asked for its spans (`ask`, when all else is done: who
is asked takes a core); the answers are read at the end of the next one, which therefore gets the figures of the step
before. An actor that has not answered by then (it is
busy, and serves calls in order) is read later, and the figures wait for it. `close` collects the rest.

Clocks. Spans are in the time of the host that made them. When an actor is registered it is asked for its clock a few
times; the middle of the fastest round trip gives the difference to the driver's clock, wrong by at most half that
round trip. Spans are corrected by it where it is larger than that, so those of one host stay as they are. Drift during
a run is not followed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.files import reason
from orchestrator.tracking.chrome_trace import Event, Trace
from orchestrator.tracking.failures import Failures
from orchestrator.tracking.poll import Poll
from orchestrator.tracking.utilization import DRIVER, Actor, Interval, Record, by_kind, figures, headline, per_worker
from rollout.base.handle import Handle
from rollout.base.spans import Span, Spans

ROUNDS = 3  # of asking an actor for its clock
LAST_S = 2.0  # that the last spans are waited for when a run ends


@dataclass(slots=True, eq=False)
class _Row:
    """What is known of one actor."""

    poll: Poll  # for its spans
    ahead_s: float  # its clock against the driver's
    asked: float = 0.0  # when it was asked last
    known_until: float = 0.0
    spans: list[Span] = field(default_factory=list)  # since the last window that is complete
    seconds: dict[str, float] = field(default_factory=dict)  # by kind, in all complete windows


class Timeline:
    """actors: the handles of each kind ("rollout", "reward", "learner"); driver: what the loop waits for."""

    def __init__(self, path: Path, actors: Mapping[str, Sequence[Handle]], driver: Spans | None = None):
        self.driver = driver or Spans()
        self.failures = Failures("timeline")
        self._rows: dict[Actor, _Row] = {}
        clocks = {DRIVER: ""}
        for kind, handles in actors.items():
            for index, handle in enumerate(handles):
                ahead, error = clock_difference(handle)
                self._rows[Actor(kind, index)] = _Row(
                    Poll(handle, "take_spans", self.failures), ahead if abs(ahead) > error else 0.0
                )
                clocks[Actor(kind, index)] = f"clock {1e3 * ahead:+.2f} ± {1e3 * error:.2f} ms"
        self._trace = Trace(path, clocks)
        self._windows: list[Interval] = []  # not complete yet
        self._wall = 0.0  # seconds of the complete ones

    def step(self, step: int, window: Interval) -> tuple[list[Span], Record]:
        """A step has just ended. window: when it began and ended, seconds since the epoch.

        Returns the driver's spans, and the figures of the step before: of all that have become complete since the last
        call, empty where none has.
        """
        mine = _by_begin(self.driver.take())
        self._read()
        complete = self._complete()
        self._windows.append(window)
        self._write([*self._trace.spans(DRIVER, mine), self._trace.step(step, window)])
        return mine, complete

    def ask(self, now: float) -> None:
        """Ask whoever has answered before for its spans. now: seconds since the epoch, the end of the last step."""
        for row in self._rows.values():
            if row.poll.ask():
                row.asked = now

    def summary(self) -> Record:
        """The figures over all steps that are complete."""
        return figures(self._wall, {actor: row.seconds for actor, row in self._rows.items()})

    def close(self) -> str:
        """Collect what is left, waiting LAST_S at most, and end the file. Returns the run in one sentence, or ""."""
        deadline = time.monotonic() + LAST_S
        self._wait(deadline)
        self.ask(time.time())  # for what has come since
        self._wait(deadline)
        for row in self._rows.values():  # the windows end with what is known
            row.known_until = math.inf
        self._complete()
        self._write(self._trace.spans(DRIVER, _by_begin(self.driver.take())))
        with self._counted():
            self._trace.close()
        return headline(self.summary())

    def _wait(self, deadline: float) -> None:
        while self._read() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _read(self) -> int:
        """Take the answers that are there. Returns how many are still out."""
        out = 0
        for actor, row in self._rows.items():
            if not row.poll.ready:
                out += row.poll.under_way
                continue
            taken: list[Span] = row.poll.take() or []
            row.known_until = row.asked
            if row.poll.died is not None:
                # whoever waits for its work gets this error, too, or goes on with another actor; the chart shows it
                self._write([self._trace.mark(actor, f"died: {row.poll.died}", row.asked)])
                continue
            spans = _by_begin(Span(s.kind, s.begin - row.ahead_s, s.end - row.ahead_s) for s in taken)
            row.spans += spans
            self._write(self._trace.spans(actor, spans))
        return out

    def _write(self, events: Sequence[Event]) -> None:
        with self._counted():
            self._trace.write(events)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """A disk that takes nothing more ends no run."""
        try:
            yield
        except OSError as error:
            path = self._trace.path
            self.failures.add(
                f"{path.name} could not be written ({reason(error, path.parent)}): training goes on, and it has gaps"
            )

    def _complete(self) -> Record:
        """The figures of the windows whose spans have come from every actor; these windows are then dropped."""
        known = min((row.known_until for row in self._rows.values()), default=math.inf)
        complete = [window for window in self._windows if window[1] <= known]
        if not complete:
            return {}
        self._windows = self._windows[len(complete) :]
        wall, seconds = sum(end - begin for begin, end in complete), {}
        for actor, row in self._rows.items():
            seconds[actor] = by_kind(row.spans, complete)
            for kind, spent in seconds[actor].items():
                row.seconds[kind] = row.seconds.get(kind, 0.0) + spent
            row.spans = [span for span in row.spans if span.end > complete[-1][1]]
        self._wall += wall
        return figures(wall, seconds) | per_worker(wall, seconds)


def clock_difference(handle: Handle) -> tuple[float, float]:
    """Seconds that the actor's clock is ahead of this process's, and by how much that may be wrong."""
    trips = []
    for _ in range(ROUNDS):
        begin = time.time()
        there = float(handle.call("clock").wait())
        end = time.time()
        trips.append((end - begin, there - (begin + end) / 2))
    trip, ahead = min(trips)
    return ahead, trip / 2


def _by_begin(spans: Any) -> list[Span]:
    return sorted(spans, key=lambda span: span.begin)
