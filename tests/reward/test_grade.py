"""The order of the rules: no mode, format error, cut off, no answer, then mathematics."""

from __future__ import annotations

import numpy as np
import pytest

from reward.grade import find_answer, think_token_in_ids, think_token_in_text
from reward.maths.equivalence import equivalent
from reward.verdict import Outcome
from rollout.mode import ControlTokens, Mode
from rollout.trajectory import Finish


def grade(
    text: str, mode: Mode | None, finish: Finish, gold: str | tuple[str, ...], all_answers: bool, strict: bool
) -> tuple[Outcome, str | None]:
    """The outcome and the answer found, as a reward worker grades, but in this process and without a limit."""
    think_token = think_token_in_text(text, mode, ("<think>", "</think>"))
    outcome, answer = find_answer(text, mode, finish, strict, "</think>", think_token=think_token)
    if outcome is not None or answer is None:
        return outcome or Outcome.NO_ANSWER, answer
    return (Outcome.CORRECT if equivalent(answer, gold, all_answers) else Outcome.WRONG), answer


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
def test_every_outcome_follows_from_text_mode_and_finish(
    text: str, mode: Mode | None, finish: Finish, outcome: Outcome, answer: str | None
) -> None:
    assert grade(text, mode, finish, "5", all_answers=False, strict=True) == (outcome, answer)


def test_strict_decides_about_answers_outside_boxes() -> None:
    for strict, outcome in ((True, Outcome.NO_ANSWER), (False, Outcome.CORRECT)):
        assert grade("The answer is 5.", Mode.SHORT, Finish.STOP, "5", False, strict)[0] is outcome


def test_several_golds_are_alternatives_or_all_required() -> None:
    text = r"\boxed{2, 1}"
    assert grade(text, Mode.SHORT, Finish.STOP, ("1", "2"), True, True)[0] is Outcome.CORRECT
    assert grade(text, Mode.SHORT, Finish.STOP, ("1", "2"), False, True)[0] is Outcome.WRONG


# ---- a think token in the answer ----

FORMATS = [  # text behind the control token, mode, whether a think token stands in the answer
    ("so 2+3</think>\\boxed{5}", Mode.SHORT, True),
    ("<think>so 2+3</think>\\boxed{5}", Mode.SHORT, True),
    ("\\boxed{5}</think>", Mode.SHORT, True),
    ("\\boxed{5}<think>", Mode.SHORT, True),
    ("\\boxed{5}", Mode.SHORT, False),
    ("<short>\\boxed{5}", Mode.SHORT, False),
    ("I think \\boxed{5}", Mode.SHORT, False),
    ("</think>\\boxed{5}", Mode.THINK, False),  # thinking may be empty: it earns no more than thinking does
    ("<think>a<short>b<think></think>\\boxed{5}", Mode.THINK, False),  # inside it anything may stand
    ("a</think><short>\\boxed{5}", Mode.THINK, False),  # a second control token chooses nothing
    ("a</think>\\boxed{4}<think>b</think>\\boxed{5}", Mode.THINK, True),
    ("a</think>\\boxed{5}</think>", Mode.THINK, True),
    ("a<think>\\boxed{5}", Mode.THINK, False),  # never closed: cut off
    ("<think>\\boxed{5}</think>", None, False),
]


@pytest.mark.parametrize(("text", "mode", "there"), FORMATS)
def test_a_think_token_in_the_answer_is_a_format_error(text: str, mode: Mode | None, there: bool) -> None:
    assert think_token_in_text(text, mode) is there
    for finish in Finish:
        outcome, answer = grade(text, mode, finish, "5", all_answers=False, strict=True)
        assert (outcome is Outcome.FORMAT_ERROR) is there and not (there and answer)
    renamed = text.replace("<think>", "[R]").replace("</think>", "[/R]")
    assert think_token_in_text(renamed, mode, ("[R]", "[/R]")) is there


@pytest.mark.parametrize(("text", "mode", "there"), FORMATS)
def test_think_tokens_are_recognized_by_their_ids(text: str, mode: Mode | None, there: bool) -> None:
    control = ControlTokens(think=4, think_end=5, short=6, eos=1)
    spelt = text.replace("<think>", "\x04").replace("</think>", "\x05").replace("<short>", "\x06")
    first = 9 if mode is None else control.id_of(mode)
    ids = np.array([first, *(ord(letter) if letter in "\x04\x05\x06" else 100 for letter in spelt), 1], np.int32)
    assert think_token_in_ids(ids, mode, control) is there
    assert not think_token_in_ids(ids[:1], mode, control)


@pytest.mark.parametrize("strict", [True, False])
def test_format_errors_need_a_mode_or_strict_grading(strict: bool) -> None:
    """In training whatever else is accepted; `thinkless verify`, which needs no mode, in its strict form only."""
    for needs_mode in (True, False):
        found = find_answer(
            "a</think>\\boxed{5}", Mode.SHORT, Finish.STOP, strict, "</think>", needs_mode=needs_mode, think_token=True
        )
        assert found == ((Outcome.FORMAT_ERROR, None) if strict or needs_mode else (None, "5"))
