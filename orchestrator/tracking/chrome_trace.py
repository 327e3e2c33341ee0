"""timeline.json: the spans of a run as a Chrome trace, for chrome://tracing and ui.perfetto.dev.

In: actors, spans, steps. Out: a JSON array, one event a line, and back again. Must not know: who was asked for spans,
what they mean.

The closing bracket comes when the run ends. The format does without it (viewers and `read` alike), so that a trace is
readable while its run goes on and after a crash. A resumed run goes on in the same file. Each actor is a process of
the trace; spans of one actor that overlap go to rows of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from orchestrator.base.files import keep_beginning, write_at_end, write_whole
from orchestrator.tracking.utilization import DRIVER, TITLES, Actor, Interval
from rollout.base.spans import Span

Event = dict[str, Any]

KINDS = list(TITLES)
MOST = 100_000  # actors of a kind: an actor's process number must not depend on how many there are of another
STEP_ROW, FIRST_ROW = 1, 2  # rows (threads) of a process; viewers take 0 for no thread, and no process
BEGIN = b"[\n"
TAIL = 1 << 16  # bytes at a file's end in which its last whole event is looked for


class Trace:
    """An open timeline.json. clocks: of every actor, a note about its clock, "" for none."""

    def __init__(self, path: Path, clocks: Mapping[Actor, str]):
        self._rows: dict[Actor, list[float]] = {actor: [] for actor in clocks}  # when the last span of each row ended
        self.path = path
        self._file, self._empty = _opened(path)
        events = [_about(DRIVER, "thread_name", {"name": "steps"}, STEP_ROW)]
        for actor, clock in clocks.items():
            events.append(_about(actor, "process_name", {"name": actor.name}))
            events.append(_about(actor, "process_sort_index", {"sort_index": _process(actor)}))
            if clock:
                events.append(_about(actor, "process_labels", {"labels": clock}))
        self.write(events)

    def spans(self, actor: Actor, spans: Sequence[Span]) -> list[Event]:
        """The events of spans, which come in the order of their begin."""
        rows, events = self._rows[actor], []
        for span in spans:
            row = next((n for n, end in enumerate(rows) if end <= span.begin + 1e-6), len(rows))
            if row == len(rows):
                rows.append(0.0)
            rows[row] = span.end
            events.append(_event(actor, span.kind, span.begin, span.end, FIRST_ROW + row))
        return events

    def step(self, step: int, window: Interval) -> Event:
        return _event(DRIVER, f"step {step}", *window, STEP_ROW) | {"args": {"step": step}}

    def mark(self, actor: Actor, text: str, at: float) -> Event:
        """Something that happened to an actor at one moment."""
        return {"name": text, "ph": "i", "s": "p", "ts": _micro(at), "pid": _process(actor), "tid": FIRST_ROW}

    def write(self, events: Sequence[Event]) -> None:
        """Append whole events, at once. OSError: none of them is in the file."""
        text = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
        if text:
            write_at_end(self._file, (("" if self._empty else ",\n") + text).encode())
            self._empty = False

    def close(self) -> None:
        with self._file:
            write_at_end(self._file, b"\n]\n")


@dataclass(slots=True, eq=False)
class Recorded:
    """A trace as it was read. A resumed run may hold a step twice: what was done and lost took its time, too."""

    spans: dict[Actor, list[Span]]  # by kind and number; each by begin
    steps: list[tuple[int, float, float]]  # step, begin, end; by begin

    @property
    def windows(self) -> list[Interval]:
        return [(begin, end) for _, begin, end in self.steps]


def read(path: Path) -> Recorded | None:
    """None where there is no trace or it holds no step. Lines that are no events are left out: the last may be torn."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as lines:
        return parsed(lines)


def parsed(lines: Iterable[str]) -> Recorded | None:
    """A trace's lines, or some of them; None where they hold no step."""
    spans: dict[int, list[Span]] = {}
    steps = []
    for line in lines:
        try:
            event = json.loads(line.rstrip().rstrip(","))
            phase, process = event["ph"], int(event["pid"])
            if phase == "M" and event["name"] == "process_name":
                spans.setdefault(process, [])
            elif phase == "X":
                begin, end = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
                if event["tid"] == STEP_ROW:
                    steps.append((int(event["args"]["step"]), begin, end))
                else:
                    spans.setdefault(process, []).append(Span(str(event["name"]), begin, end))
        except (ValueError, TypeError, KeyError):
            continue
    numbers = [number for number in sorted(spans) if 0 < number <= len(KINDS) * MOST]
    actors = {number: Actor(KINDS[(number - 1) // MOST], (number - 1) % MOST) for number in numbers}
    found = {actor: sorted(spans[number], key=lambda span: span.begin) for number, actor in actors.items()}
    return Recorded(found, sorted(steps, key=lambda step: step[1])) if steps else None


def _process(actor: Actor) -> int:
    return KINDS.index(actor.kind) * MOST + actor.index + 1


def _event(actor: Actor, name: str, begin: float, end: float, row: int) -> Event:
    start = _micro(begin)
    place = {"ts": start, "dur": max(0, _micro(end) - start), "pid": _process(actor), "tid": row}
    return {"name": name, "cat": actor.kind, "ph": "X"} | place


def _about(actor: Actor, name: str, args: Event, row: int = FIRST_ROW) -> Event:
    return {"name": name, "ph": "M", "pid": _process(actor), "tid": row, "args": args}


def _micro(seconds: float) -> int:
    return round(1e6 * seconds)


def _opened(path: Path) -> tuple[FileIO, bool]:
    """The file, ready for the next event, and whether it holds none yet. What a crash tore is cut off, on a copy."""
    end = _end_of_events(path) if path.exists() else 0
    if end <= len(BEGIN):
        write_whole(path, BEGIN)
    else:
        keep_beginning(path, end)
    return path.open("ab", buffering=0), end <= len(BEGIN)


def _end_of_events(path: Path) -> int:
    """Where its last whole event ends, a comma behind it left out; 0: it holds none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in (max(0, size - TAIL), 0):
            file.seek(start)
            lines = file.read().split(b"\n")
            while lines and not _is_whole(lines[-1]):
                lines.pop()
            if lines:
                break
    return start + len(b"\n".join(lines).rstrip(b",")) if lines else 0


def _is_whole(line: bytes) -> bool:
    """Whether it is a line of a trace: its beginning, or one event."""
    try:
        return line == b"[" or "ph" in json.loads(line.rstrip(b","))
    except (ValueError, TypeError):
        return False
