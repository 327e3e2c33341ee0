"""The streams of questions of a generated task, and which level question number i has.

In: how a task makes a question, an index, levels and their weights. Out: problems with their level. Must not know: what
a question is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from rollout.data.problems import Problem

GOLDEN = 0.6180339887498949


class Mix(Protocol):
    levels: list[int]
    weights: list[float]


Conf = TypeVar("Conf", bound=Mix)
Work = TypeVar("Work")  # what a long answer writes down


@dataclass(frozen=True, slots=True)
class Questions(Generic[Conf, Work]):
    """Question `index` of a stream depends only on (purpose, seed, index)."""

    source: str  # the name that problems bear
    question: Callable[[int, Conf, random.Random], tuple[str, Work]]  # of a level: its text, its work
    answer_of: Callable[[Work], str]

    def at(self, seed: int, index: int, conf: Conf, purpose: str) -> tuple[int, str, Work]:
        """(level, problem, work) number `index` of the stream (purpose, seed)."""
        stream = f"{self.source}/{purpose}/{seed}"
        level = level_at(stream, index, conf.levels, conf.weights)
        return level, *self.question(level, conf, random.Random(f"{stream}/{index}"))

    def problem_at(self, seed: int, index: int, conf: Conf, purpose: str = "train") -> Problem:
        """Problem number `index` of the stream (purpose, seed); give validation its own purpose."""
        level, text, work = self.at(seed, index, conf, purpose)
        return self._problem(f"{purpose}/{seed}/{index}", text, work, level)

    def problems_of_level(self, seed: int, level: int, count: int, conf: Conf) -> list[Problem]:
        """`count` evaluation questions of one level, independent of every `problem_at` stream (a level of few questions
        repeats some)."""
        problems = []
        for index in range(count):
            place = f"level {level}/{seed}/{index}"
            text, work = self.question(level, conf, random.Random(f"{self.source}/{place}"))
            problems.append(self._problem(place, text, work, level))
        return problems

    def _problem(self, uid: str, text: str, work: Work, level: int) -> Problem:
        return Problem(f"{self.source}/{uid}", text, self.answer_of(work), self.source, str(level))


def level_at(stream: str, index: int, levels: Sequence[int], weights: Sequence[float]) -> int:
    """Levels follow `weights` evenly: any n consecutive questions contain a level's share to within about one question
    (an additive low-discrepancy sequence), so that a small batch always has its hard questions."""
    place = (random.Random(stream).random() + index * GOLDEN) % 1.0 * sum(weights)
    return next((level for level, end in zip(levels, accumulate(weights)) if place < end), levels[-1])
