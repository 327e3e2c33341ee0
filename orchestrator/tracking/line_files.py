"""A run folder's files of lines: metrics.jsonl, samples and such.

In: lines. Out: files that have each piece of text whole or not at all. Must not know: what lines mean.

What the disk does not take is lost, said once and counted (`tracking/failures/files`): it ends no run. A checkpoint
that cannot be written does (`orchestrator.training.checkpoint`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.base.files import append, reason, write_whole
from orchestrator.tracking.failures import Failures


class LineFiles:
    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None):
        """check: raises when the folder is not there any more, or is another."""
        self.folder, self.check, self.failures = folder, check, Failures("files")

    def append(self, name: str, text: str) -> bool:
        """Add whole lines to a file of the folder. Returns whether they are there."""
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


def drop_after(path: Path, step: int) -> int:
    """Drop lines of steps that a resumed run will do again, and those that cannot be read. Returns how many of these
    there were; a last line without its end, which a kill has torn, is not counted."""
    if not path.is_file():
        return 0
    data, kept, damaged = path.read_bytes(), [], 0
    for line in data.splitlines(keepends=True):
        at = _step(line)
        if at is None:
            damaged += line.endswith(b"\n")
        elif at <= step:
            kept.append(line.rstrip(b"\r\n") + b"\n")
    _rewrite(path, data, b"".join(kept))
    return damaged


def _step(line: bytes) -> int | None:
    """The step of a line of JSON; None: it has none, or is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else None


def drop_texts_after(path: Path, step: int) -> None:
    """The same for the samples as text: each begins with a line `--- step 12, `."""
    if not path.is_file():
        return
    data = path.read_bytes()
    samples = re.split(rb"^(?=--- step \d+, )", data, flags=re.MULTILINE)
    kept = [s for s in samples if (begin := re.match(rb"--- step (\d{1,18}), ", s)) and int(begin[1]) <= step]
    _rewrite(path, data, b"".join(kept))


def _rewrite(path: Path, data: bytes, kept: bytes) -> None:
    if kept != data:
        write_whole(path, kept)
