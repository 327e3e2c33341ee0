r"""What a teacher's answer is worth as one side of a warm-up pair, before anybody grades it.

In: an `Answer`. Out: a `Reading`, its thinking and its answer, or `Unfit` with the reason. Must not know: golds,
verdicts, files.

A long answer has thinking that is closed, and an answer behind it; a short one has no thinking. One that reached
max_tokens is unfit, or (distill.over_length=truncate) ends at its last whole line if its final answer stands before
that: nothing is added to it. Within its thinking it has no answer, and is unfit either way.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.choices import OverLength
from orchestrator.distill.answers import Answer
from reward.maths.extraction.answer import final_answer
from rollout.data.think_block import CLOSE, OPEN, NeverClosed, thinking_and_answer

NEVER_CLOSED = "its thinking is never closed"
CUT_OFF = "cut off at max_tokens"
NO_THINKING = "no thinking"
THINKS = "thinks in short mode"
NO_ANSWER = "no answer behind its thinking"
TOKEN_IN_ANSWER = "a think token in its answer"
EMPTY = "empty"
REJECTED = "refused by the endpoint"


class Unfit(Exception):
    """Why an answer cannot be a side of a pair."""


@dataclass(frozen=True, slots=True)
class Reading:
    thinking: str | None  # as written, without its control tokens; None in short mode
    answer: str
    truncated: bool = False

    def text(self, think_end: str = CLOSE) -> str:
        """The text behind the control token; think_end: the token that closes thinking."""
        return self.answer if self.thinking is None else f"{self.thinking}{think_end}{self.answer}"


def read(answer: Answer, over_length: OverLength, strict: bool) -> Reading:
    """strict: a final answer must be boxed (reward.strict). Raises Unfit."""
    if answer.finish == "rejected":
        raise Unfit(REJECTED)
    cut = answer.finish == "length"
    try:
        thinking, text = thinking_and_answer(answer.text, answer.reasoning)
    except NeverClosed:
        raise Unfit(CUT_OFF if cut else NEVER_CLOSED) from None
    if OPEN in text or CLOSE in text:
        raise Unfit(TOKEN_IN_ANSWER)
    if answer.side == "think" and thinking is None:
        raise Unfit(CUT_OFF if cut else NO_THINKING)
    if answer.side == "short" and thinking is not None:
        raise Unfit(THINKS)
    if cut:
        text = text[: text.rfind("\n") + 1].rstrip()
        if over_length is OverLength.drop or final_answer(text, strict) is None:
            raise Unfit(CUT_OFF)
    if not text.strip():
        raise Unfit(EMPTY if thinking is None else NO_ANSWER)
    return Reading(thinking, text, truncated=cut)
