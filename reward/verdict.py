"""What grading one response concludes. RAISED, TIMED_OUT and CRASHED are no verdicts: that sibling leaves its group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # no final answer found
    CUT_OFF = "cut_off"  # hit the length limit, or thinking was never closed
    NO_MODE = "no_mode"  # the first token is no control token
    FORMAT_ERROR = "format_error"  # a think token stands in the answer (`reward.grade`)
    RAISED = "raised"  # the check or the reward function raised an exception, or returned no finite number
    TIMED_OUT = "timed_out"  # the check overran its limit
    CRASHED = "crashed"  # the check's process died

    @property
    def judged(self) -> bool:
        return self not in (Outcome.RAISED, Outcome.TIMED_OUT, Outcome.CRASHED)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a response has no verdict.

    Example: Failure("KeyError: 'unit'", "my_rewards.py:12", "Traceback (most recent call last): ...", "problem p/17").
    """

    error: str  # one line
    where: str | None = None  # file:line of the innermost frame in the reward function's own file
    traceback: str | None = None  # with the first failure of an actor at that place
    about: str = ""  # the response: the prompt's uid, or the answer and its gold, cut to 200 characters each


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    extracted: str | None  # the final answer found in the response
    seconds: float  # spent on the check
    reward: float | None = None  # given by a user's reward function instead of the scheme
    cached: bool = False  # decided by the check of another response with the same answer and gold
    think_token: bool = False  # a think token, opening or closing, stands in the answer
    failure: Failure | None = None  # where the outcome is no verdict

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class Judged:
    """A reward actor's answer: verdicts in the order of the responses, None where one was given up."""

    verdicts: list[Verdict | None]
    seconds: float  # that grading took
