"""Which of a teacher's answers to a question is taken.

In: its answers that are whole, with verdicts and lengths. Out: one of them, or None. Must not know: texts, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf.choices import Keep, LongAnswer
from rollout.base.errors import BadInput


@dataclass(frozen=True, slots=True)
class Candidate:
    sample: int
    length: int  # tokens, or characters where a teacher does not tell its tokens
    correct: bool
    logprob: float | None = None  # mean over its tokens, nats


def choose(candidates: Sequence[Candidate], side: str, keep: Keep, long_answer: LongAnswer) -> Candidate | None:
    """A short answer: the shortest; a long one: as `long_answer` says. Equal ones: the first sample.

    Raises BadInput for `best` among answers without log-probs.
    """
    right = [one for one in candidates if one.correct]
    those = sorted(right or (candidates if keep is Keep.all else []), key=lambda one: one.sample)
    if not those:
        return None
    if side == "short" or long_answer is LongAnswer.shortest:
        return min(those, key=lambda one: one.length)
    if long_answer is LongAnswer.longest:
        return max(those, key=lambda one: one.length)
    if long_answer is LongAnswer.best and len(those) > 1:
        if any(one.logprob is None for one in those):
            raise BadInput(
                "distill.long_answer=best compares log-probs, and these answers have none: they were sampled without "
                "(give another distill.out), or the endpoint returns none (choose shortest, longest or first)"
            )
        return max(those, key=lambda one: one.logprob or 0.0)
    return those[0]
