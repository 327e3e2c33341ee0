"""Graded answers of an evaluation, and the same as arrays.

In: what was sampled and graded, or lines of a file. Out: `Answer`s; `Grid`s, problem by sample. Must not know: how
answers are sampled, graded, summarized.

An evaluation asks every problem `samples` times in each of three ways: `free` (the model chooses the mode), and with
the control token of `think` or `short` given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from orchestrator.tracking.summary import MODE_NAMES
from reward.verdict import Outcome

WAYS = tuple(MODE_NAMES)
CERTAIN = -math.log(float(np.finfo(np.float32).eps) / 2)  # a logit whose P differs from 1 by float32's last bit


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Its outcome is by the configuration's own rules; strict, lenient: whether it is right by either."""

    uid: str
    way: str
    sample: int
    mode: str | None  # None: it begins with no control token
    outcome: str  # `reward.verdict.Outcome`'s value
    strict: bool | None  # None: a reward function of the user's decides
    lenient: bool | None
    reward: float | None  # as training would give it; None: no verdict
    extracted: str | None  # the final answer
    tokens: int  # of the response, control token and end token included
    logprob: float  # of the first token, nats; 0 where it was given
    leaks: tuple[str, ...] = ()  # signs of reasoning in a short answer

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, line: dict[str, Any]) -> Answer:
        return cls(**{**line, "leaks": tuple(line["leaks"])})


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The answers of one way. P problems, S samples; `judged` is False where there is no answer or no verdict."""

    judged: np.ndarray  # bool[P, S]
    correct: np.ndarray  # bool[P, S]
    strict: np.ndarray  # bool[P, S]
    lenient: np.ndarray  # bool[P, S]
    reward: np.ndarray  # f[P, S]
    tokens: np.ndarray  # f[P, S]
    cut: np.ndarray  # bool[P, S]: it reached the limit
    thinks: np.ndarray  # bool[P, S]
    shorts: np.ndarray  # bool[P, S]
    leaks: np.ndarray  # bool[P, S]
    logit: np.ndarray  # f[P]: log P(think) / P(short) of the first token, mean of the samples; nan: not known. Beyond
    # CERTAIN float32 knows no more than the mode
    extracted: tuple[tuple[str | None, ...], ...]  # [P][S]
    weights: np.ndarray  # f[P], of the problems in a mean

    def of(self, chosen: np.ndarray) -> Grid:
        """Those problems alone. chosen: i[P'] or bool[P]."""
        rest = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "extracted"}
        return Grid(**rest, extracted=tuple(self.extracted[i] for i in np.arange(len(self.weights))[chosen]))

    def means(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """f[P]: a problem's mean of values[P, S] over its judged answers (`where` among them); nan: there are none."""
        chosen = self.judged if where is None else self.judged & where
        counts = chosen.sum(axis=1)
        total = np.where(chosen, values, 0.0).sum(axis=1)
        return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def grid(
    answers: Iterable[Answer], uids: Sequence[str], samples: int, weights: np.ndarray | None = None, whole: bool = True
) -> Grid:
    """One way's answers, problems in the order of uids. weights: f[P] of the problems; None: all alike. whole: top_p
    was 1; else a log-prob of 0 may be that of a mode whose alternative was cut off, and says nothing."""
    places = {uid: place for place, uid in enumerate(uids)}
    shape = (len(uids), samples)
    names = ("judged", "correct", "strict", "lenient", "cut", "thinks", "shorts", "leaks")
    flags = {name: np.zeros(shape, bool) for name in names}
    tokens, reward, logits = np.zeros(shape), np.zeros(shape), np.full(shape, np.nan)
    extracted: list[list[str | None]] = [[None] * samples for _ in uids]
    for one in answers:
        at = places[one.uid], one.sample
        tokens[at], reward[at], extracted[at[0]][at[1]] = one.tokens, one.reward or 0.0, one.extracted
        flags["judged"][at] = Outcome(one.outcome).judged
        flags["correct"][at] = one.outcome == Outcome.CORRECT.value
        flags["strict"][at], flags["lenient"][at] = bool(one.strict), bool(one.lenient)
        flags["cut"][at], flags["leaks"][at] = one.outcome == Outcome.CUT_OFF.value, bool(one.leaks)
        flags["thinks"][at], flags["shorts"][at] = one.mode == "think", one.mode == "short"
        if one.way == "free" and one.mode is not None and (one.logprob < 0 or whole):
            other = max(-np.expm1(one.logprob), np.exp(-CERTAIN))  # 1 - P
            logits[at] = (one.logprob - np.log(other)) * (1 if one.mode == "think" else -1)
    known = ~np.isnan(logits)
    total = np.where(known, logits, 0).sum(axis=1)
    logit = np.divide(total, known.sum(axis=1), out=np.full(len(uids), np.nan), where=known.any(axis=1))
    weights = np.full(len(uids), 1.0) if weights is None else weights
    return Grid(
        **flags, tokens=tokens, reward=reward, logit=logit, extracted=tuple(map(tuple, extracted)), weights=weights
    )
