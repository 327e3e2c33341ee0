"""A sweep's progress: on a terminal one screen with all members, elsewhere a line whenever something changes.

In: the sweep's state, members' figures. Out: text. Must not know: how members are run.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from orchestrator.base.waiting import is_terminal
from orchestrator.sweeps.state import OVER, RUNNING, WAITING, MemberState, SweepState
from orchestrator.tracking.numbers import number, or_dash, percent, signed

EVERY_S = 60.0  # between two lines without a terminal
ROOM = 4  # lines of a screen that are not a member's


@dataclass(frozen=True)
class Row:
    """A member's figures."""

    step: int
    steps: int
    think_rate: float | None
    objective: float | None


class Screen:
    def __init__(self, state: SweepState, file: TextIO | None = None):
        self._state, self._file = state, file or sys.stderr
        self._redraws = is_terminal(self._file)
        self._lines, self._said = 0, time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self._file, flush=True)

    def show(self, rows: Mapping[str, Row]) -> None:
        """rows: by the run's name, of the members that run."""
        if self._redraws:
            self._clear()
            lines = self._table(rows)
            print("\n".join(lines), file=self._file, flush=True)
            self._lines = len(lines)
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            parts = [f"{run} {row.step}/{row.steps}" for run, row in rows.items()]
            self.say(f"{counts(self._state)}: {', '.join(parts)}" if parts else counts(self._state))

    def _table(self, rows: Mapping[str, Row]) -> list[str]:
        width, height = shutil.get_terminal_size((100, 24))
        members = sorted(self._state, key=lambda one: (one.status != RUNNING, one.status == WAITING, -one.number))
        shown = sorted(members[: max(1, height - ROOM)], key=lambda one: one.number)
        left_out = len(members) - len(shown)
        wide = max([len(one.run) for one in shown])
        head = f"{'member':<{wide}}  {'status':<8}  {'step':>11}  {'thinks':>6}  {self._state.objective:>12}"
        lines = [f"{self._state.name}: {counts(self._state)}", head]
        lines += [line(one, self._state.own(one), rows.get(one.run), wide) for one in shown]
        lines += [f"{left_out} more"] if left_out > 0 else []
        return [one[: width - 1] for one in lines]

    def _clear(self) -> None:
        if self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="", file=self._file)
            self._lines = 0


def line(member: MemberState, own: str, row: Row | None, wide: int) -> str:
    """Example: "seeds-3  running       12/120    48 %        +0.31  algorithm.alpha=0.01 run.seed=1"."""
    step = f"{row.step}/{row.steps}" if row else ""
    thinks = or_dash(percent)(row.think_rate) if row else ""
    value = row.objective if row else member.objective
    objective = or_dash(signed)(value) if value is None or abs(value) < 100 else number(value)
    what = member.error or own
    return f"{member.run:<{wide}}  {member.status:<8}  {step:>11}  {thinks:>6}  {objective:>12}  {what}"


def counts(state: SweepState) -> str:
    """Example: "6 members: 3 finished, 2 running, 1 waiting"."""
    found = Counter(member.status for member in state)
    order = [one for one in (*OVER, *sorted({*found} - {*OVER})) if one in found]
    plural = "" if len(state.members) == 1 else "s"
    return f"{len(state.members)} member{plural}: " + ", ".join(f"{found[one]} {one}" for one in order)
