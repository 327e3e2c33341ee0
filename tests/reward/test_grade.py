"""The order of the rules: no mode, cut off, no answer, then mathematics."""

from __future__ import annotations

import pytest

from reward.grade import correct, grade
from reward.verdict import Outcome
from rollout.mode import Mode
from rollout.trajectory import Finish


@pytest.mark.parametrize(
    ("text", "mode", "finish", "outcome", "answer"),
    [
        (r"\boxed{5}", Mode.SHORT, Finish.STOP, Outcome.CORRECT, "5"),
        (r"\boxed{6}", Mode.SHORT, Finish.STOP, Outcome.WRONG, "6"),
        (r"2+3</think>\boxed{5}", Mode.THINK, Finish.STOP, Outcome.CORRECT, "5"),
        (r"\boxed{5}</think>\boxed{6}", Mode.THINK, Finish.STOP, Outcome.WRONG, "6"),
        (r"\boxed{5}</think>", Mode.THINK, Finish.STOP, Outcome.NO_ANSWER, None),
        (r"\boxed{5}", Mode.THINK, Finish.STOP, Outcome.CUT_OFF, None),
        (r"\boxed{5}", Mode.SHORT, Finish.LENGTH, Outcome.CUT_OFF, None),  # no end of sequence
        (r"\boxed{5}", Mode.SHORT, Finish.ABORT, Outcome.CUT_OFF, None),
        (r"\boxed{5}", None, Finish.STOP, Outcome.NO_MODE, None),
        (r"\boxed{5}", None, Finish.LENGTH, Outcome.NO_MODE, None),
        ("5", Mode.SHORT, Finish.STOP, Outcome.NO_ANSWER, None),
        (r"\boxed{5 \text{ or } 6}", Mode.SHORT, Finish.STOP, Outcome.WRONG, r"5 \text{ or } 6"),
    ],
)
def test_outcomes(text, mode, finish, outcome, answer) -> None:
    assert grade(text, mode, finish, "5", all_answers=False, strict=True) == (outcome, answer)


def test_strictness_decides_about_answers_outside_boxes() -> None:
    for strict, outcome in ((True, Outcome.NO_ANSWER), (False, Outcome.CORRECT)):
        assert grade("The answer is 5.", Mode.SHORT, Finish.STOP, "5", False, strict)[0] is outcome


def test_several_golds() -> None:
    text = r"\boxed{2, 1}"
    assert grade(text, Mode.SHORT, Finish.STOP, ("1", "2"), True, True)[0] is Outcome.CORRECT
    assert grade(text, Mode.SHORT, Finish.STOP, ("1", "2"), False, True)[0] is Outcome.WRONG


def test_plain_text_needs_no_mode() -> None:
    assert correct(r"<think>hm</think> The answer is \boxed{5}", "5")
    assert correct("#### 5", "5")
    assert not correct(r"<think>\boxed{5}", "5")
    assert not correct("", "5")
    assert not correct(r"\boxed{}", "")
