"""What teachers are asked and what they answer, and the files in which answers and verdicts are kept as they come.

In: answers, one at a time. Out: a file of JSON lines that is only ever appended to; what it holds, by key. Must not
know: teachers, how an answer is read or graded.

A line is there as soon as `add` returns, whatever becomes of this process; the disk is told (fsync) every few seconds.
A last line that is not whole, of a process or a machine that was stopped in mid-write, is cut off when the file is
opened again: that answer is asked for once more.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.base.files import write_at_end
from rollout.data.problems import Problem
from rollout.mode import Mode

Key = tuple[str, str, int]  # uid of the problem, side ("think" or "short"), sample
SYNC_EVERY_S = 5.0
SIDES = {mode.value: mode for mode in Mode}


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted."""

    problem: Problem
    side: str  # "think" or "short"
    sample: int  # 0..distill.samples-1

    @property
    def key(self) -> Key:
        return self.problem.uid, self.side, self.sample


@dataclass(frozen=True, slots=True)
class Answer:
    uid: str
    side: str
    sample: int
    text: str  # as the teacher wrote it; a <think> that its chat template opens is in front
    reasoning: str | None  # what an endpoint returned apart from the text
    finish: str  # "stop"; "length": reached max_tokens; "rejected": the endpoint refused this one request (text: why)
    tokens: int | None  # of the answer, thinking included, as the teacher counts them; None: not told
    logprob: float | None  # mean over its tokens, nats; None: not asked for

    @property
    def key(self) -> Key:
        return self.uid, self.side, self.sample


class Journal:
    """Append-only JSON lines with a key each; the first line of a key counts."""

    def __init__(self, path: Path, keep: Callable[[Mapping[str, Any], int], Any] | None = None) -> None:
        """keep: what of a line is held in memory, from (its object, its place in the file); None: the place.

        Raises RunError for a line in the middle that cannot be read.
        """
        self.path = path
        self.kept: dict[Key, Any] = {}
        self._keep = keep or (lambda record, place: place)
        self._file = path.open("ab", buffering=0)
        self._end = self._read_all()
        self._synced = time.monotonic()

    def _read_all(self) -> int:
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    key = _key(record)
                except (ValueError, KeyError, TypeError) as error:
                    raise RunError(f"{self.path}, line {number}: damaged ({error}); delete that line") from error
                self.kept.setdefault(key, self._keep(record, end))
                end += len(line)
        self._file.truncate(end)
        return end

    def add(self, record: Mapping[str, Any]) -> None:
        """Append it, unless its key is there already. Raises ValueError once it is closed, and OSError, with nothing of
        it in the file, where the disk is full."""
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        key = _key(record)
        if key in self.kept:
            return
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        write_at_end(self._file, line)
        self.kept[key] = self._keep(record, self._end)
        self._end += len(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync()

    def read(self, key: Key) -> dict[str, Any]:
        """The object of a key whose place is held."""
        with self.path.open("rb") as file:
            file.seek(self.kept[key])
            found: dict[str, Any] = json.loads(file.readline())
        return found

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()


def _key(record: Mapping[str, Any]) -> Key:
    return str(record["uid"]), sys.intern(str(record["side"])), int(record["sample"])
