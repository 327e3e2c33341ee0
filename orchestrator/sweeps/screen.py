"""A sweep's progress: on a terminal one screen with all members, elsewhere a line whenever something changes.

In: the sweep's state, members' figures. Out: text. Must not know: how members are run.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from orchestrator.base.waiting import is_terminal
from orchestrator.sweeps.state import FAILED, FINISHED, OVER, PRUNED, RUNNING, STOPPED, WAITING, MemberState, SweepState
from orchestrator.tracking.numbers import number, or_dash, percent, signed

EVERY_S = 60.0  # between two lines without a terminal
ROOM = 4  # lines of a screen that are not a member's
FIRST = (RUNNING, FAILED, STOPPED, PRUNED, FINISHED, WAITING)  # where there are more members than lines
HEADINGS = ("member", "status", "step", "thinks", "objective", "")


@dataclass(frozen=True)
class Row:
    """A member's figures."""

    step: int
    steps: int
    think_rate: float | None
    objective: float | None
    doing: str = ""  # before its first step and after its last one


class Screen:
    def __init__(self, state: SweepState, file: TextIO | None = None):
        self._state, self._file = state, file or sys.stderr
        self._redraws = is_terminal(self._file)
        self._lines, self._said = 0, time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        print(self._erased() + line, file=self._file, flush=True)

    def leave(self) -> None:
        """What is on the screen stays: something was written below it."""
        self._lines = 0

    def show(self, rows: Mapping[str, Row]) -> None:
        """rows: by the run's name, of the members that run."""
        if self._redraws:
            lines = self._table(rows)
            print(self._erased() + "\n".join(lines), file=self._file, flush=True)  # in one piece: no flicker
            self._lines = len(lines)
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            parts = [f"{run} {row.step}/{row.steps}" for run, row in rows.items()]
            self.say(f"{counts(self._state)}: {', '.join(parts)}" if parts else counts(self._state))

    def _table(self, rows: Mapping[str, Row]) -> list[str]:
        width, height = shutil.get_terminal_size((100, 24))
        members = sorted(self._state, key=lambda one: (FIRST.index(one.status), -one.number))
        room = max(1, height - ROOM)
        shown, left_out = sorted(members[:room], key=lambda one: one.number), members[room:]
        cells = [HEADINGS, *(_cells(one, rows.get(one.run), self._state.own(one)) for one in shown)]
        wide = [max(len(row[at]) for row in cells) for at in range(len(HEADINGS) - 1)]
        lines = [f"{self._state.name}: {counts(self._state)}; objective: {self._state.objective}"]
        for run, status, *figures, what in cells:
            aligned = [f"{cell:>{one}}" for cell, one in zip(figures, wide[2:], strict=True)]
            lines.append("  ".join([f"{run:<{wide[0]}}", f"{status:<{wide[1]}}", *aligned, what]).rstrip())
        lines += [f"and {said(left_out)}"] if left_out else []
        return [one if len(one) < width else f"{one[: width - 2]}…" for one in lines]

    def _erased(self) -> str:
        """What erases the table on a terminal."""
        lines, self._lines = self._lines, 0
        return f"\x1b[{lines}A\x1b[J" if lines else ""


def _cells(member: MemberState, row: Row | None, own: Sequence[str]) -> tuple[str, ...]:
    """Example: ("seeds-3", "running", "12/120", "48 %", "+0.31", "alpha=0.01 seed=1")."""
    step = f"{row.step}/{row.steps}" if row else ""
    thinks = or_dash(percent)(row.think_rate) if row else ""
    value = row.objective if row else member.objective
    objective = "" if value is None else signed(value) if abs(value) < 100 else number(value)
    what = " · ".join(filter(None, (" ".join(brief(own)), row.doing if row else "")))
    return member.run, member.status, step, thinks, objective, member.error or what


def brief(overrides: Sequence[str]) -> list[str]:
    """Without the sections of their keys, where that leaves the keys different.

    Example: ["algorithm.alpha=0.5", "run.seed=1"] -> ["alpha=0.5", "seed=1"]
    """
    pairs = [one.partition("=")[::2] for one in overrides]
    names = Counter(key.rpartition(".")[2] for key, _ in pairs)
    return [f"{name if names[name := key.rpartition('.')[2]] == 1 else key}={value}" for key, value in pairs]


def counts(state: SweepState) -> str:
    """Example: "6 members: 3 finished, 2 running, 1 waiting"."""
    plural = "" if len(state.members) == 1 else "s"
    return f"{len(state.members)} member{plural}: {said([*state])}"


def said(members: Sequence[MemberState]) -> str:
    """Example: "3 finished, 1 waiting"."""
    found = Counter(member.status for member in members)
    order = [one for one in (*OVER, *sorted({*found} - {*OVER})) if one in found]
    return ", ".join(f"{found[one]} {one}" for one in order)
