"""A file of JSON lines that is only ever appended to, so that what stops in the middle loses no finished answer.

In: objects with a key, one at a time. Out: what the file holds, by key. Must not know: what the objects are.

A line is there as soon as `add` returns, whatever becomes of this process; the disk is told (fsync) every few seconds.
A last line that is not whole, of a process or a machine that was stopped in mid-write, is cut off (on a copy) when the
file is opened again: that answer is asked for once more. A line ends with a checksum of itself, by which one that was
damaged later is noticed; lines of earlier versions have none, and pass.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.base.files import keep_beginning, write_at_end

CHECK = b', "crc32": '  # behind it: a number
Key = tuple[str, str, int]  # uid of the problem, side or way of answering, sample
SYNC_EVERY_S = 5.0


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
    return text[:-1] + CHECK + b"%d}\n" % zlib.crc32(text)


def read_line(line: bytes) -> dict[str, Any]:
    """The object of a journal's line. Raises ValueError when it is none, or not as it was written."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    if (check := record.pop("crc32", None)) is not None and check != zlib.crc32(line.rpartition(CHECK)[0] + b"}"):
        raise ValueError("it is not as it was written")
    return record


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
                    record = read_line(line)
                    key = self._key(record)
                    self.kept.setdefault(key, self._keep(record, end))
                except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
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
        line = _line(record)
        write_at_end(self._file, line)
        self.kept[key] = self._keep(record, self._end)
        self._end += len(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync()

    def read(self, key: Key) -> dict[str, Any]:
        """The object of a key whose place is held."""
        with self.path.open("rb") as file:
            file.seek(self.kept[key])
            return read_line(file.readline())

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _key(self, record: Mapping[str, Any]) -> Key:
        return str(record["uid"]), sys.intern(str(record[self._by])), int(record["sample"])
