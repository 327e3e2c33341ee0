"""Counts of verdicts, and the answers that took longest.

In: verdicts as they come. Out: figures of all so far. Must not know: how verdicts are reached, who uses the figures.
"""

from __future__ import annotations

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


class Tally:
    """Of all verdicts of one reward worker."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Outcome, 0)
        self.slowest: list[Slow] = []  # at most 10, slowest first

    def add(self, verdict: Verdict, gold: str | tuple[str, ...]) -> None:
        self.counts[verdict.outcome] += 1
        if len(self.slowest) == _SLOWEST and verdict.seconds <= self.slowest[-1].seconds:
            return
        text = gold if isinstance(gold, str) else ", ".join(gold)
        slow = Slow(verdict.seconds, (verdict.extracted or "")[:_CHARS], text[:_CHARS], verdict.outcome.value)
        self.slowest = sorted([*self.slowest, slow], reverse=True)[:_SLOWEST]
