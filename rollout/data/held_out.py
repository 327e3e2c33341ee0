"""Questions that are kept out of a warm-up's pairs, to evaluate it on.

In: pairs, of which some have a gold answer. Out: the pairs without these questions, and the questions as problems. Must
not know: why they are kept out, models.

Which questions depends on their texts and the seed alone, not on files and order: those whose hash is lowest. All rows
with a text go together, so no held-out question is learnt from another row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout.data.pair_file import Pair, PairSequence
from rollout.data.pairs import Pairs
from rollout.data.problems import Problem

SHARE = 0.1  # of the questions with an answer, at most


@dataclass(frozen=True, slots=True)
class HeldOut:
    pairs: Pairs  # the others
    problems: list[Problem]
    rows: int  # left out of the pairs


class Kept(PairSequence):
    """Some of the pairs of a sequence; 8 bytes of memory each."""

    def __init__(self, pairs: Sequence[Pair], places: np.ndarray):
        """places: i64[kept]"""
        self._pairs, self._places = pairs, places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Pair:
        return self._pairs[int(self._places[place])]


def sides_of(pairs: Pairs) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
    """A file's rows: with both answers, with a long one, with a short one."""
    return pairs.rows or (), pairs.think_only, pairs.short_only


def questions_of(pairs: Pairs) -> Iterator[str]:
    """The texts of a file's questions."""
    return (pair.problem for side in sides_of(pairs) for pair in side)


def hold_out(pairs: Pairs, count: int, seed: int) -> HeldOut:
    """Keep `count` questions out of a file's pairs: fewer where that is more than `SHARE` of those with an answer, none
    where these are fewer than 1 / `SHARE`. The pairs are read once."""
    sides = sides_of(pairs)
    keys = [np.fromiter((_key(pair, seed) for pair in side), np.uint64, len(side)) for side in sides]
    answered = np.unique(np.concatenate([key[key % 2 == 1] for key in keys]))
    chosen = answered[: min(count, int(SHARE * len(answered)))]
    out = [np.isin(key // 2, chosen // 2) for key in keys]
    kept = [Kept(side, np.flatnonzero(~gone)) if len(side) else side for side, gone in zip(sides, out, strict=True)]
    found: dict[int, Problem] = {}
    for side, key, gone in zip(sides, keys, out, strict=True):
        for place in np.flatnonzero(gone & (key % 2 == 1)):
            found.setdefault(int(key[place]), _problem(int(key[place]), side[int(place)]))
    others = replace(pairs, rows=kept[0], think_only=kept[1], short_only=kept[2])
    return HeldOut(others, [found[key] for key in sorted(found)], sum(int(gone.sum()) for gone in out))


def _key(pair: Pair, seed: int) -> int:
    """63 bits of a hash of the question, then whether this row has its answer."""
    digest = hashlib.sha256(f"hold-out/{seed}/{pair.problem.strip()}".encode()).digest()
    return (int.from_bytes(digest[:8]) & ~1) | (pair.answer is not None)


def _problem(key: int, pair: Pair) -> Problem:
    assert pair.answer is not None
    return Problem(f"pairs/{key:016x}", pair.problem, pair.answer, "pairs", pair.level)
