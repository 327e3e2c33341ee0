"""Statistics of a reward worker: counts, speed, slowest answers.

In: verdicts as they come. Out: `Statistics`. Must not know: how verdicts are reached, who uses the figures.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from reward.verdict import Outcome, Verdict

_SLOWEST = 10  # answers kept
_CHARS = 200  # kept of an answer or a gold


@dataclass(frozen=True, slots=True, order=True)
class Slow:
    """One of the answers that took longest. Texts are cut to 200 characters."""

    seconds: float  # spent on it, in this process and in the one that checked it
    answer: str
    gold: str
    outcome: str  # `Outcome`'s value


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of all verdicts of one reward worker."""

    counts: Mapping[Outcome, int]  # answers; every outcome has an entry
    seconds: float  # wall-clock seconds in which at least one answer was being graded
    slowest: tuple[Slow, ...]  # at most 10, slowest first

    @property
    def answers(self) -> int:
        return sum(self.counts.values())

    def share(self, outcome: Outcome) -> float:
        """0..1, of all answers; 0 before the first."""
        return self.counts[outcome] / self.answers if self.answers else 0.0


class Tally:
    """Accumulates verdicts."""

    def __init__(self) -> None:
        self._counts: Counter[Outcome] = Counter()
        self._seconds = 0.0
        self._slowest: list[Slow] = []  # a heap, fastest first

    def add(self, verdict: Verdict, gold: str | tuple[str, ...]) -> None:
        self._counts[verdict.outcome] += 1
        full = len(self._slowest) >= _SLOWEST
        if full and verdict.seconds <= self._slowest[0].seconds:
            return
        text = gold if isinstance(gold, str) else ", ".join(gold)
        slow = Slow(verdict.seconds, (verdict.extracted or "")[:_CHARS], text[:_CHARS], verdict.outcome.value)
        (heapq.heapreplace if full else heapq.heappush)(self._slowest, slow)

    def busy(self, seconds: float) -> None:
        self._seconds += seconds

    def statistics(self) -> Statistics:
        return Statistics(
            {outcome: self._counts[outcome] for outcome in Outcome},
            self._seconds,
            tuple(sorted(self._slowest, reverse=True)),
        )
