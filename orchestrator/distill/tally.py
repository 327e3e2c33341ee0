"""What is counted while a distilled data set is put together.

In: outcomes and chosen answers, as they are found. Out: counts by teacher and level, lengths. Must not know: files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.distill.answers import Answer
from orchestrator.distill.reading import Reading
from reward.verdict import Outcome


@dataclass(slots=True)
class Tally:
    rows: Counter[str] = field(default_factory=Counter)  # "think and short", "think", "short" -> rows
    sources: Counter[str] = field(default_factory=Counter)  # of the rows
    dropped: Counter[str] = field(default_factory=Counter)  # why -> questions
    outcomes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # side -> of answers
    levels: defaultdict[str, Counter[tuple[str, bool]]] = field(default_factory=lambda: defaultdict(Counter))
    lengths: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # side -> of chosen answers
    truncated: Counter[str] = field(default_factory=Counter)  # side -> chosen answers
    in_tokens: dict[str, bool] = field(default_factory=dict)  # side -> whether all lengths are

    def became(self, side: str, level: str | None, what: Mapping[str, int]) -> None:
        """Of the answers to one question."""
        for name, count in what.items():
            self.outcomes[side][name] += count
            self.levels[side][level or "all", name == Outcome.CORRECT.value] += count

    def take(self, side: str, answer: Answer, reading: Reading) -> None:
        self.in_tokens[side] = self.in_tokens.get(side, True) and answer.tokens is not None
        self.lengths[side].append(answer.tokens if answer.tokens is not None else len(reading.text()))
        self.truncated[side] += reading.truncated

    def pass_rates(self, side: str) -> dict[str, dict[str, Any]]:
        """By level: answers, and the share of them that is correct."""
        found = {}
        for level in sorted({level for level, _ in self.levels[side]}, key=lambda level: (len(level), level)):
            right, wrong = self.levels[side][level, True], self.levels[side][level, False]
            found[level] = {"answers": right + wrong, "correct": round(right / (right + wrong), 4)}
        return found

    def length(self, side: str) -> dict[str, Any]:
        """Of the chosen answers; tokens as the teacher counts them, or characters where it does not tell."""
        ordered = sorted(self.lengths[side])
        if not ordered:
            return {}
        unit = "tokens" if self.in_tokens[side] else "tokens or characters"
        at = {name: ordered[min(int(q * len(ordered)), len(ordered) - 1)] for name, q in (("p50", 0.5), ("p95", 0.95))}
        return {"unit": unit, "mean": round(sum(ordered) / len(ordered), 1), **at, "max": ordered[-1]}
