"""Answers are graded as they come, in a thread of their own.

In: answers with their problems. Out: verdicts, in a file of their own, and counts for the progress bar. Must not know:
teachers, how grading works.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.choices import OverLength
from orchestrator.base.journal import Journal
from orchestrator.distill.answers import SIDES, Answer
from orchestrator.distill.reading import Unfit, read
from reward.verdict import Outcome, Verdict
from reward.worker import Response
from rollout.data.problems import Problem
from rollout.prompt import Prompt
from rollout.trajectory import Finish

AT_ONCE = 256  # answers that are graded in one call at most
Grade = Callable[[list[Response]], list[Verdict]]


def outcome_of(record: Any, place: int) -> Outcome:
    """What the journal of verdicts holds of a line."""
    return Outcome(record["outcome"])


@dataclass(frozen=True, slots=True)
class _Graded:
    answer: Answer
    response: Response


class Verifier:
    """Grades what `put` gives it. Leave the `with` block to wait for the rest; after an error nothing is waited for."""

    def __init__(self, grade: Grade, verdicts: Journal, over_length: OverLength, strict: bool) -> None:
        self.counts: Counter[tuple[str, bool]] = Counter()  # (side, correct) -> answers, those unfit among them
        self._grade, self._verdicts = grade, verdicts
        self._over_length, self._strict = over_length, strict
        self._queue: queue.SimpleQueue[_Graded | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._over = False  # nobody waits for verdicts any more
        self._thread = threading.Thread(target=self._run, name="grading", daemon=True)

    def __enter__(self) -> Verifier:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._queue.put(None)
            self._thread.join()
            self._raise()
        self._over = True

    def put(self, problem: Problem, answer: Answer) -> None:
        """Raises what grading raised, if it did."""
        self._raise()
        if (known := self._verdicts.kept.get(answer.key)) is not None:
            self.counts[answer.side, known is Outcome.CORRECT] += 1
            return
        try:
            text = read(answer, self._over_length, self._strict).text()
        except Unfit:
            self.counts[answer.side, False] += 1
            return
        nothing = np.empty(0, np.int32)
        prompt = Prompt(
            problem.uid, problem.problem, nothing, problem.answer, problem.source, problem.level, problem.all_answers
        )
        self._queue.put(_Graded(answer, (text, SIDES[answer.side], Finish.STOP, prompt)))

    def share(self, side: str) -> float | None:
        """Of a side's graded answers, the correct ones; None before the first."""
        right = self.counts[side, True]
        graded = right + self.counts[side, False]
        return right / graded if graded else None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            more = True
            while more and not self._over:
                batch = [self._queue.get()]
                while len(batch) < AT_ONCE and batch[-1] is not None and not self._queue.empty():
                    batch.append(self._queue.get())
                more = batch[-1] is not None
                self._judge([one for one in batch if one is not None])
        except BaseException as error:  # raised again where answers are put, and at the end
            self._error = error

    def _judge(self, batch: Sequence[_Graded]) -> None:
        if not batch:
            return
        for one, verdict in zip(batch, self._grade([one.response for one in batch]), strict=True):
            if self._over:
                return
            uid, side, sample = one.answer.key
            self._verdicts.add({"uid": uid, "side": side, "sample": sample, "outcome": verdict.outcome.value})
            self.counts[side, verdict.correct] += 1
