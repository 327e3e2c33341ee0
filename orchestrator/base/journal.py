"""A file of JSON lines that is only ever appended to, so that what stops in the middle loses no finished answer.

In: objects with a key, one at a time. Out: what the file holds, by key. Must not know: what the objects are.

A line is there as soon as `add` returns, whatever becomes of this process; the disk is told (fsync) every few seconds.
A last line that is not whole, of a process or a machine that was stopped in mid-write, is cut off (on a copy) when the
file is opened again: that answer is asked for once more. A line that was damaged later is noticed by its checksum.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.base.files import keep_beginning, write_at_end
from orchestrator.base.line import read, written

Key = tuple[str, str, int]  # uid of the problem, side or way of answering, sample
SYNC_EVERY_S = 5.0


class Journal:
    """Append-only JSON lines with a key each; the first line of a key counts."""

    def __init__(
        self, path: Path, keep: Callable[[Mapping[str, Any], int], Any] | None = None, by: str = "side"
    ) -> None:
        """keep: what of a line is held in memory, from (its object, its place in the file); None: the place. by: the
        name of a key's second part.

        Raises RunError for a line in the middle that cannot be read.
        """
        self.path = path
        self.kept: dict[Key, Any] = {}
        self._keep = keep or (lambda record, place: place)
        self._by = by
        self._end = self._read_all()
        self._file = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def _read_all(self) -> int:
        end = 0
        if not self.path.exists():
            return end
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = read(line)
                    key = self._key(record)
                    self.kept.setdefault(key, self._keep(record, end))
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise RunError(f"{self.path}, line {number}: damaged ({error}); delete that line") from error
                end += len(line)
        keep_beginning(self.path, end)
        return end

    def add(self, record: Mapping[str, Any]) -> None:
        """Append it, unless its key is there already. Raises ValueError once it is closed, and OSError, with nothing of
        it in the file, where the disk is full."""
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        key = self._key(record)
        if key in self.kept:
            return
        line = written(record, ensure_ascii=False)
        write_at_end(self._file, line)
        self.kept[key] = self._keep(record, self._end)
        self._end += len(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync()

    def read(self, key: Key) -> dict[str, Any]:
        """The object of a key whose place is held."""
        with self.path.open("rb") as file:
            file.seek(self.kept[key])
            return read(file.readline())

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _key(self, record: Mapping[str, Any]) -> Key:
        return str(record["uid"]), sys.intern(str(record[self._by])), int(record["sample"])
