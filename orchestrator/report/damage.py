"""What of a run's files is not as the run left it, in words.

In: a run folder. Out: a line for each file. Must not know: what is made of the files.

Three things tell: digests and checksums within the files, the steps that a run counts, and what its last session noted
of its files when it ended (`orchestrator.tracking.line_files.stamps`). Of a run that is under way, or was killed, the
first two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base.files import crc32
from orchestrator.base.record import damaged, readable
from orchestrator.report.read import object_of, read_yaml
from orchestrator.tracking.line_files import FILES, LINES, left_out
from orchestrator.training.stages import MARKS, UNASKED

RECORDS = ("provenance.json", "evaluation.json", "warmup.json")
METRICS = "metrics.jsonl"
TOGETHER = (METRICS, "samples.jsonl", "samples.txt")  # are there from the beginning of training on, if empty
ALL = ("config.yaml", *RECORDS, *FILES)


def damage(folder: Path, names: Iterable[str] = ALL) -> list[str]:
    """Of these files of a run, a line each; empty when there is nothing to say."""
    found, provenance = [], readable(folder / "provenance.json")
    left = as_left(provenance)
    for name in names:
        path = folder / name
        if path.exists() and not path.is_file():
            found.append(f"{name} is no file, and left out")
        elif name == "config.yaml":
            if read_yaml(path) is None and (path.exists() or provenance):
                what = "damaged" if path.exists() else "missing"
                found.append(f"{name} is {what}, and left out: restore it from a copy")
        elif name in RECORDS:
            if damaged(path):
                found.append(f"{name} is damaged, and left out")
            elif not path.exists() and _has_made(folder, provenance, name):
                found.append(f"{name} is missing")
        elif words := _lines(path, left.get(name)):
            found.append(words)
    return found


def say_damage(folder: Path, names: Iterable[str] = ALL) -> None:
    for line in damage(folder, names):
        print(f"{folder}: {line}", file=sys.stderr, flush=True)


def as_left(provenance: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Size and CRC-32 of a run's files of lines, by name, when its last session ended; empty while one is under way, or
    of an earlier version."""
    sessions = provenance.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    files = last.get("files") if isinstance(last, dict) else None
    return files if isinstance(files, dict) else {}


def unlike(path: Path, left: Sequence[int] | None, whole: bool = True) -> str:
    """How a file is not as the run left it, in words; empty: it is, or nothing is known. whole: its content counts, not
    its size alone."""
    if left is None:
        return ""
    if not path.is_file():
        return f"{path.name} is missing"
    same = path.stat().st_size == left[0] and not (whole and crc32(path) != left[1])
    return "" if same else f"{path.name} is not as the run left it"


def _lines(path: Path, left: Sequence[int] | None) -> str:
    """Of a file of lines; left: see `as_left`."""
    if path.name in LINES and path.is_file():
        *whole, torn = path.read_bytes().split(b"\n")
        read = [object_of(line) for line in whole if line]
        if wrong := sum(record is None for record in read) + bool(torn):
            return left_out(path.name, wrong)
        steps = [record["step"] for record in read if record and "seconds/step" in record]
        if path.name == METRICS and (lacking := _lacking(path.parent, steps)):
            return f"{path.name} lacks {lacking}"
    if left is None and path.name in TOGETHER and not path.exists():
        learns = any((path.parent / name).exists() for name in TOGETHER) or any(path.parent.glob("checkpoints/step_*"))
        return f"{path.name} is missing" if learns else ""
    return unlike(path, left)


def _lacking(folder: Path, steps: Sequence[Any]) -> str:
    """The steps without a line, in words: a run writes one for each, before it saves a checkpoint of it."""
    known = {step for step in steps if isinstance(step, int)}
    saved = [int(number) for path in folder.glob("checkpoints/step_*") if (number := path.name[5:]).isdecimal()]
    lacking = sorted({*range(1, max([0, *known, *saved]) + 1)} - known)
    if not lacking:
        return ""
    return f"step {lacking[0]}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")


def _has_made(folder: Path, provenance: dict[str, Any], name: str) -> bool:
    """Whether the run has done the stage that leaves this record."""
    stages, config = provenance.get(MARKS), read_yaml(folder / "config.yaml") or {}
    done = stages if isinstance(stages, dict) else {}
    if name == "provenance.json":
        return (folder / METRICS).is_file()
    if name == "warmup.json":
        return bool(done.get("warm-up") and config.get("warmup"))
    wanted = config.get("evaluate")
    asked = isinstance(wanted, dict) and wanted.get("final") and not done.get(UNASKED)
    return name == "evaluation.json" and bool(done.get("evaluate") and asked)
