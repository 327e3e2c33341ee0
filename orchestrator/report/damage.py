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
from orchestrator.tracking.line_files import FILES, LINES, left_out, steps_of_texts
from orchestrator.training.stages import MARKS, UNASKED

RECORDS = ("provenance.json", "evaluation.json", "warmup.json")
METRICS, SAMPLES = "metrics.jsonl", ("samples.jsonl", "samples.txt")
TOGETHER = (METRICS, *SAMPLES)  # are there from the beginning of training on, if empty
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
    if path.name in SAMPLES and (lacking := _unsampled(path)):
        return f"{path.name} lacks {lacking}"
    if left is None and path.name in TOGETHER and not path.exists():
        learns = any((path.parent / name).exists() for name in TOGETHER) or any(path.parent.glob("checkpoints/step_*"))
        return f"{path.name} is missing" if learns else ""
    return unlike(path, left)


def _lacking(folder: Path, steps: Sequence[Any]) -> str:
    """The steps without a line, in words: a run writes one for each, before it saves a checkpoint of it."""
    known = {step for step in steps if isinstance(step, int)}
    return _listed({*range(1, max([_saved(folder), *known]) + 1)} - known)


def _unsampled(path: Path) -> str:
    """The steps that only the other of two files with the same answers has, in words. Both are written before a
    checkpoint is saved; behind it, a kill may have come between them."""
    lines, texts = (path.parent / name for name in SAMPLES)
    if not (lines.is_file() and texts.is_file()):
        return ""
    read = [object_of(line) for line in lines.read_bytes().splitlines()]
    there = {record["step"] for record in read if record and isinstance(record.get("step"), int)}, steps_of_texts(texts)
    mine, other = there if path == lines else there[::-1]
    return _listed({step for step in other - mine if step <= _saved(path.parent)})


def _saved(folder: Path) -> int:
    """The newest step with a checkpoint; -1: there is none."""
    names = (path.name[5:] for path in folder.glob("checkpoints/step_*"))
    return max((int(number) for number in names if number.isdecimal()), default=-1)


def _listed(steps: set[int]) -> str:
    """In words; empty: none."""
    first = min(steps, default=0)
    return (f"step {first}" + (f" and {len(steps) - 1} more" if len(steps) > 1 else "")) if steps else ""


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
