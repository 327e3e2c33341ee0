"""The answer of one response, or the outcome that it has without one.

In: text, mode, finish. Out: an `Outcome`, or the extracted answer. Must not know: gold answers, processes, rewards.
Order: no mode, format error, cut off, no answer; an answer found in a cut-off response never counts.

Format: the answer must not contain a think token, opening or closing. A short response is all answer; the answer of a
thinking one is what follows its first closing token. Otherwise a policy that writes `<short>` and then thinks would be
rewarded for a short answer. A later control token does not change the mode, and the thinking part is unrestricted.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reward.maths.extraction.answer import final_answer, without_thinking
from reward.verdict import Outcome
from rollout.mode import ControlTokens, Mode
from rollout.trajectory import Finish

if TYPE_CHECKING:
    import numpy as np

THINK = ("<think>", "</think>")


def think_token_in_ids(token_ids: np.ndarray, mode: Mode | None, control: ControlTokens) -> bool:
    """Whether the answer contains a think token, by id.

    token_ids: i32[T] of a response, control token first. Always False for mode None, which has no format.
    """
    closing = token_ids == control.think_end
    think = functools.reduce(operator.or_, (token_ids == opener for opener in control.openers), closing)
    if mode == Mode.SHORT:
        return bool(think[1:].any())
    return mode is not None and bool(closing.any()) and bool(think[int(closing.argmax()) + 1 :].any())


def think_token_in_text(text: str, mode: Mode | None, names: Sequence[str] = THINK) -> bool:
    """The same for a response's text without its control token; spelt out in other tokens, a think token counts too.

    names: of the opening tokens, and of the closing one at last.
    """
    if mode is None:
        return False
    answer = text if mode == Mode.SHORT else text.partition(names[-1])[2]
    return any(name in answer for name in names)


def find_answer(
    text: str,
    mode: Mode | None,
    finish: Finish,
    strict: bool,
    think_end: str = "</think>",
    needs_mode: bool = True,
    think_token: bool = False,
) -> tuple[Outcome | None, str | None]:
    """(outcome, None) if no maths is needed to decide, otherwise (None, answer).

    needs_mode False: a text without a control token is graded, and, unless strict, also one with a think token in its
    answer (think_token).
    """
    if mode is None and needs_mode:
        return Outcome.NO_MODE, None
    if think_token and (needs_mode or strict):
        return Outcome.FORMAT_ERROR, None
    if finish is not Finish.STOP:
        return Outcome.CUT_OFF, None
    rest = without_thinking(text, think_end, thinking=mode is not None and mode.thinks)
    if rest is None:
        return Outcome.CUT_OFF, None
    answer = final_answer(rest, strict)
    return (Outcome.NO_ANSWER if answer is None else None), answer
