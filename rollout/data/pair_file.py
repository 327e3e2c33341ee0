"""Warm-up pairs in a temporary file, so that a data set of any size takes 8 bytes of memory a pair.

In: pairs, one after the other. Out: any of them by its number, and a hash of all. The file has no name: it goes with
the process. Must not know: where pairs come from, in which order they are learnt.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from rollout.mode import Mode


@dataclass(frozen=True, slots=True)
class Pair:
    r"""Example: Pair("4~2        :2=", "4~2=3?4~2=3</think>\boxed{3}", "\boxed{3}")."""

    problem: str
    think: str | None  # text after the think token: reasoning, </think>, answer; None: this row has none
    short: str | None  # text after the short token; None: likewise
    answer: str | tuple[str, ...] | None = None  # gold, where it was read (`rollout.data.held_out`); not learnt
    level: str | None = None  # likewise
    between: Mapping[str, str] = field(default_factory=dict)  # text after the token of a mode between, by its name

    def answers(self, modes: Sequence[Mode]) -> Iterator[tuple[Mode, str]]:
        """Those that there are, the longest mode first."""
        texts = {"think": self.think, "short": self.short, **self.between}
        for mode in reversed(modes):
            if (text := texts.get(mode.name)) is not None:
                yield mode, text

    def line(self) -> bytes:
        """What is learnt."""
        return self._line([])

    def stored(self) -> bytes:
        return self._line([] if self.answer is None else [self.answer, self.level])

    def _line(self, graded: list[Any]) -> bytes:
        between = [dict(self.between)] if self.between else []
        return json.dumps([self.problem, self.think, self.short, *between, *graded]).encode() + b"\n"


class PairSequence(Sequence[Pair]):
    """Pairs by place, also from the end, and slices of them."""

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> list[Pair]: ...
    def __getitem__(self, place: int | slice) -> Pair | list[Pair]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.at(place % len(self))

    @abstractmethod
    def at(self, place: int) -> Pair:
        """place: 0..len - 1"""


class PairFile(PairSequence):
    """Pairs that were appended. Below TMPDIR, which should be a disk. Raises OSError when that is full."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self._ends = array("Q")  # bytes up to the end of each pair

    def append(self, pair: Pair) -> None:
        line = pair.stored()
        self._file.write(line)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, place: int) -> Pair:
        begin = self._ends[place - 1] if place else 0
        self._file.flush()
        problem, think, short, *rest = json.loads(os.pread(self._file.fileno(), self._ends[place] - begin, begin))
        between = rest.pop(0) if rest and isinstance(rest[0], dict) else {}
        answer, level = rest or (None, None)
        return Pair(problem, think, short, tuple(answer) if isinstance(answer, list) else answer, level, between)


def sha256(*parts: Sequence[Pair]) -> str:
    """SHA-256 (hex) of what all pairs teach, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        for pair in part:
            digest.update(pair.line())
    return digest.hexdigest()
