"""How far a run has come, from its folder or from its job's log.

In: metrics.jsonl, or the lines that `orchestrator.tracking.console.plain_line` printed. Out: `Progress`, and a followed
log as a person watches it. Must not know: Ray.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from orchestrator.base.record import readable
from orchestrator.base.waiting import is_terminal
from orchestrator.report.damage import METRICS, as_left, unlike
from orchestrator.report.read import object_of
from orchestrator.tracking.console import Console, key_of, seconds_of
from orchestrator.tracking.line_files import left_out

STEP = re.compile(r"step=(\d+)/(\d+)((?: \w+=[-+\w.:]+)*)")
LEFT = re.compile(r" left=([\d:]+)")
TAIL_BYTES = 65536  # of metrics.jsonl that are read for its last step


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    steps: int | None
    think_rate: float | None  # of the last step's answers
    tokens_per_s: float | None  # that the samplers wrote in it


def of_folder(folder: Path, steps: int | None = None) -> Progress | None:
    """The last step in a run folder's metrics.jsonl; None where there is none to be read. Says when it is damaged."""
    try:
        with (folder / METRICS).open("rb") as file:
            start = max(0, file.seek(0, 2) - TAIL_BYTES)
            file.seek(start)
            *lines, torn = file.read().split(b"\n")
    except OSError:
        lines, torn, start = [], b"", 0
    read = [object_of(line) for line in lines[bool(start) :]]
    left = as_left(readable(folder / "provenance.json")).get(METRICS)
    wrong = sum(record is None for record in read)
    if words := left_out(METRICS, wrong) if wrong else unlike(folder / METRICS, left, whole=bool(torn)):
        print(f"{folder}: {words}", file=sys.stderr, flush=True)
    last = next((record for record in reversed(read) if record and "seconds/step" in record), None)
    return _progress(last, steps) if last else None


def of_log(text: str) -> Progress | None:
    """The last step that a log tells of."""
    for line in reversed(text.splitlines()):
        if (found := parsed(line)) and "seconds/step" in found[0]:
            return _progress(*found)
    return None


def run_folder(text: str) -> str | None:
    """The folder that a training run's log names."""
    found = re.findall(r"^run folder: (.+?)(?:, going on from step \d+)?$", text, re.M)
    return found[-1] if found else None


def parsed(line: str) -> tuple[dict[str, Any], int] | None:
    """(the figures, under their keys in metrics.jsonl; steps in all) of a line of progress; None for any other.

    Example: "step=12/120 reward=+0.310 left=1:15" -> ({"step": 12, "reward/mean": 0.31}, 120)
    """
    found = STEP.fullmatch(line.strip())
    if not found:
        return None
    words = (word.partition("=") for word in found[3].split())
    figures = {key: float(value) for name, _, value in words if (key := key_of(name))}
    return {"step": int(found[1]), **figures}, int(found[2])


def _progress(record: Mapping[str, Any], steps: int | None) -> Progress:
    return Progress(int(record["step"]), steps, record.get("think_rate/all"), record.get("rollout/tokens_per_s"))


class Screen:
    """A followed log: on a terminal its lines of progress as the table and bar of a run that was started there, all
    others, and everything elsewhere, as they come."""

    def __init__(self, file: TextIO | None = None):
        self._file = file or sys.stdout
        self._table = is_terminal(self._file)
        self._rest = ""  # a line that has not ended
        self._console: Console | None = None

    def write(self, piece: str) -> None:
        if not self._table:
            self._file.write(piece)
            self._file.flush()
            return
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        found = parsed(line)
        if found and self._console is None:
            self._console = Console(found[1], max(found[0]["step"] - 1, 0), file=self._file, elsewhere=True)
        if self._console is None:
            print(line, file=self._file, flush=True)
        elif found:
            left = LEFT.search(line)  # a log comes in pieces, and later: nothing can be computed from when
            self._console.step(found[0], seconds_of(left[1]) if left else None)
        else:
            self._console.note(line)

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = ""
        if self._console is not None:
            self._console.close()
