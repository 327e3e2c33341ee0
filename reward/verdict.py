"""The result of grading one response. RAISED, TIMED_OUT and CRASHED are not verdicts: the sibling leaves its group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # no final answer found
    CUT_OFF = "cut_off"  # hit the length limit, or never closed its thinking
    NO_MODE = "no_mode"  # the first token is not a control token
    FORMAT_ERROR = "format_error"  # a think token in the answer (`reward.grade`)
    RAISED = "raised"  # the check or the reward function raised, or returned no finite number
    TIMED_OUT = "timed_out"  # the check exceeded its time limit
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
    traceback: str | None = None  # only of a worker's first failure at that place
    about: str = ""  # the response: the prompt's uid, or the answer and its gold, cut to 200 characters each


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    extracted: str | None  # the final answer found in the response
    seconds: float  # spent on the check
    reward: float | None = None  # of the user's reward function, if there is one
    cached: bool = False  # decided by the check of another response with the same answer and gold
    think_token: bool = False  # a think token, opening or closing, is in the answer
    failure: Failure | None = None  # if the outcome is not a verdict

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A reward actor's reply: verdicts in the order of the responses, None for an aborted one."""

    verdicts: list[Verdict | None]
    seconds: float  # of grading
