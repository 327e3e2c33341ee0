"""What grading one response concludes. TIMED_OUT and CRASHED are no verdicts: such a sibling leaves its group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # no final answer found
    CUT_OFF = "cut_off"  # hit the length limit, or thinking was never closed
    NO_MODE = "no_mode"  # the first token is no control token
    TIMED_OUT = "timed_out"  # the check overran its limit
    CRASHED = "crashed"  # the check died

    @property
    def judged(self) -> bool:
        return self not in (Outcome.TIMED_OUT, Outcome.CRASHED)


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    extracted: str | None  # the final answer found in the response
    seconds: float  # spent on the check
    reward: float | None = None  # given by a user's reward function instead of the scheme
    cached: bool = False  # decided by the check of another response with the same answer and gold

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class Judged:
    """A reward actor's answer: verdicts in the order of the responses, None where one was given up."""

    verdicts: list[Verdict | None]
    seconds: float  # that grading took
