"""The answers of a run (samples.jsonl), to look through: filtered, by pages, all modes of one question side by side.

In: the file, which grows. Out: the wanted answers, read when they are wanted. Must not know: how they are shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.report.read import JsonObject, by_level, object_of
from orchestrator.watch.tail import Tail


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands in the file, and what it is found by."""

    offset: int
    length: int
    step: int
    uid: str
    level: str
    mode: str  # "none": it begins with no control token
    outcome: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """None: any."""

    first_step: int | None = None
    last_step: int | None = None
    level: str | None = None
    mode: str | None = None
    outcome: str | None = None
    both_modes: bool = False  # questions that were answered in either mode, their answers together

    def fits(self, place: Place) -> bool:
        return (
            (self.first_step is None or place.step >= self.first_step)
            and (self.last_step is None or place.step <= self.last_step)
            and self.level in (None, place.level)
            and self.mode in (None, place.mode)
            and self.outcome in (None, place.outcome)
        )


@dataclass(slots=True)
class Answers:
    path: Path
    places: list[Place] = field(default_factory=list)  # as they were written
    damaged: int = 0  # lines that are left out
    _tail: Tail = field(init=False)

    def __post_init__(self) -> None:
        self._tail = Tail(self.path)

    def refresh(self) -> None:
        """Take note of what was written since the last time."""
        more = True
        while more:
            found = self._tail.read()
            more = found.more
            if found.anew:
                self.places.clear()
                self.damaged = 0
            at = found.start
            for line in found.lines:
                record = object_of(line)
                if record is not None:
                    self.places.append(_place(at, len(line), record))
                else:
                    self.damaged += 1
                at += len(line) + 1

    @property
    def levels(self) -> list[str]:
        return sorted({place.level for place in self.places if place.level}, key=by_level)

    @property
    def modes(self) -> list[str]:
        """The longest first, as far as names tell; short ones and those without a mode at last."""
        order = {"think": 0, "short": 2, "none": 3}
        return sorted({"think", "short", "none", *(place.mode for place in self.places)}, key=lambda m: order.get(m, 1))

    @property
    def outcomes(self) -> list[str]:
        return sorted({place.outcome for place in self.places})

    def find(self, wanted: Wanted) -> list[list[Place]]:
        """The wanted ones, newest first, each alone; with both_modes by question: all its answers, thinking first.

        A question counts when its answers in both modes are among all those that fit, whatever the wanted mode.
        """
        if not wanted.both_modes:
            return [[place] for place in reversed(self.places) if wanted.fits(place)]
        questions: dict[str, list[Place]] = {}
        for place in self.places:
            questions.setdefault(place.uid, []).append(place)
        pairs = [places for places in questions.values() if {"think", "short"} <= {place.mode for place in places}]
        pairs = [places for places in pairs if any(wanted.fits(place) for place in places)]
        pairs.sort(key=lambda places: -places[-1].step)
        order = self.modes
        return [sorted(places, key=lambda place: (order.index(place.mode), place.step)) for places in pairs]

    def load(self, places: Sequence[Place]) -> list[JsonObject]:
        """Their records; one that has gone since (the run was resumed or deleted) is left out."""
        found = []
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for place in places:
                file.seek(place.offset)
                record = object_of(file.read(place.length))
                if record is not None:
                    found.append(record)
        return found


def _place(offset: int, length: int, record: JsonObject) -> Place:
    step, level, mode = record.get("step"), record.get("level"), record.get("mode")
    return Place(
        offset,
        length,
        step if isinstance(step, int) else 0,
        str(record.get("uid")),
        "" if level is None else str(level),
        str(mode or "none"),
        str(record.get("outcome") or "unknown"),
    )
