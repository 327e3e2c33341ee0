"""One response -> outcome: which answer it gives, and whether that is right. Pure, in this process.

In: text, mode, finish, gold. Out: `Outcome` and the extracted answer. Must not know: processes, rewards.
Order: no mode, cut off, no answer, then equivalence; an answer found in a cut-off response never counts.
"""

from __future__ import annotations

from reward.answer import extract
from reward.equivalence import Gold, matches
from reward.verdict import Outcome
from rollout.mode import Mode
from rollout.trajectory import Finish


def find_answer(
    text: str,
    mode: Mode | None,
    finish: Finish,
    strict: bool,
    think_end: str = "</think>",
    needs_mode: bool = True,
) -> tuple[Outcome | None, str | None]:
    """(outcome, None) where no maths is needed to decide, else (None, answer).

    needs_mode False: a text without a control token is graded as it stands.
    """
    if mode is None and needs_mode:
        return Outcome.NO_MODE, None
    if finish is not Finish.STOP:
        return Outcome.CUT_OFF, None
    extraction = extract(text, mode, strict, think_end)
    return extraction.outcome, extraction.answer


def grade(
    text: str,
    mode: Mode | None,
    finish: Finish,
    gold: Gold,
    all_answers: bool,
    strict: bool,
    think_end: str = "</think>",
) -> tuple[Outcome, str | None]:
    """The outcome and the answer found. May hang on hostile answers: `reward.judge` runs it under a hard limit."""
    outcome, answer = find_answer(text, mode, finish, strict, think_end)
    if outcome is not None or answer is None:
        return outcome or Outcome.NO_ANSWER, answer
    return (Outcome.CORRECT if matches(gold, answer, all_answers) else Outcome.WRONG), answer


def correct(response: str, gold: str) -> bool:
    """Plain text, without a control token, in the lenient form: what benchmarks of verifiers ask."""
    answer = extract(response, None, strict=False).answer
    return answer is not None and matches(gold, answer)
