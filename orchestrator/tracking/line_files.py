"""A run folder's files of lines: metrics.jsonl, samples and such.

In: objects, text. Out: files that have each piece of it whole or not at all. Must not know: what lines mean.

What the disk does not take is lost, said once and counted (`tracking/failures/files`): it ends no run. A checkpoint
that cannot be written does (`orchestrator.training.checkpoint`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.files import append, crc32, reason, write_whole
from orchestrator.base.line import read, written
from orchestrator.tracking.failures import Failures

LINES = (
    *("metrics.jsonl", "samples.jsonl", "unjudged.jsonl", "bad_steps.jsonl"),
    *("warmup.jsonl", "warmup_evaluation.jsonl"),
)
TEXT = rb"--- step (\d{1,18}), "  # how a sample begins as text
FILES = (*LINES, "samples.txt", "timeline.json")  # of a run folder; these two have no checksums within


def stamps(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of each file of lines in a run folder: what a session leaves, so that damage is noticed."""
    return {name: [(folder / name).stat().st_size, crc32(folder / name)] for name in FILES if (folder / name).is_file()}


class LineFiles:
    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None):
        """check: raises when the folder is not there any more, or is another."""
        self.folder, self.check, self.failures = folder, check, Failures("files")

    def add(self, name: str, records: Iterable[Mapping[str, Any]]) -> bool:
        """Add a line for each object to a file of the folder. Returns whether they are there."""
        return self.append(name, b"".join(map(written, records)))

    def append(self, name: str, text: str | bytes) -> bool:
        """The same of whole lines."""
        self.check()
        try:
            append(self.folder / name, text)
            return True
        except OSError as error:
            self.failures.add(
                f"{name} could not be written ({reason(error, self.folder)}): training goes on, and lines are lost "
                f"as long as {self.folder} cannot be written"
            )
            return False


def drop_after(
    path: Path,
    step: int,
    note: Callable[[str], None] = lambda text: None,
    again: Callable[[dict[str, Any]], bool] = lambda row: False,
) -> None:
    """Drop lines of steps that a resumed run will do again, and those that are damaged. note: is told of these; a last
    line without its end, which a kill has torn, does not count. again: whether the run will write this line again,
    though its step is done."""
    if not path.is_file():
        return
    data, kept, damaged = path.read_bytes(), [], 0
    for line in data.splitlines(keepends=True):
        row = _row(line)
        if row is None:
            damaged += line.endswith(b"\n")
        elif row["step"] <= step and not again(row):
            kept.append(line.rstrip(b"\r\n") + b"\n")
    _rewrite(path, data, b"".join(kept))
    if damaged:
        note(left_out(path.name, damaged))


def left_out(name: str, lines: int) -> str:
    return f"{name}: {lines} damaged line{'s are' if lines > 1 else ' is'} left out"


def _row(line: bytes) -> dict[str, Any] | None:
    """None: it has no step, or is damaged."""
    try:
        row: dict[str, Any] = read(line)
    except ValueError:
        return None
    return row if isinstance(row.get("step"), int) else None


def drop_texts_after(path: Path, step: int) -> None:
    """The same for the samples as text: each begins with a line `--- step 12, `."""
    if not path.is_file():
        return
    data = path.read_bytes()
    samples = re.split(rb"^(?=--- step \d+, )", data, flags=re.MULTILINE)
    kept = [s for s in samples if (begin := re.match(TEXT, s)) and int(begin[1]) <= step]
    _rewrite(path, data, b"".join(kept))


def steps_of_texts(path: Path) -> set[int]:
    """Of samples as text."""
    return {int(step) for step in re.findall(b"^" + TEXT, path.read_bytes(), flags=re.MULTILINE)}


def _rewrite(path: Path, data: bytes, kept: bytes) -> None:
    if kept != data:
        write_whole(path, kept)
