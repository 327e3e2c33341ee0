"""Graded answers of an evaluation, and the same as arrays.

In: what was sampled and graded, or lines of a file. Out: `Answer`s; `Grid`s, problem by sample. Must not know: how
answers are sampled, graded, summarized.

An evaluation asks every problem `samples` times in each of several ways: `free` (the model chooses the mode), and with
the control token of each mode given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from reward.verdict import Outcome
from rollout.mode import MODES, Mode

FREE = "free"
CERTAIN = -math.log(float(np.finfo(np.float32).eps) / 2)  # a logit whose P differs from 1 by float32's last bit


def ways_of(modes: Iterable[Mode]) -> tuple[str, ...]:
    """Names of the ways to ask: the free choice, then each mode, the longest first."""
    return (FREE, *(mode.name for mode in reversed([*modes])))


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
    place: np.ndarray  # i[P, S]: of the mode that it took in `modes`; -1: none
    leaks: np.ndarray  # bool[P, S]
    # f[P, M]: log P(mode) / P(short) of the first token; nan: not known (`_logits`). Beyond CERTAIN float32 knows no
    # more than the mode
    logits: np.ndarray
    extracted: tuple[tuple[str | None, ...], ...]  # [P][S]
    weights: np.ndarray  # f[P], of the problems in a mean
    modes: tuple[Mode, ...]  # in order, M of them

    @property
    def thinks(self) -> np.ndarray:
        """bool[P, S]"""
        return self.place > 0

    @property
    def known(self) -> np.ndarray:
        """bool[P]: where logits are."""
        return ~np.isnan(self.logits).any(axis=1)

    def chances(self, bias: float | np.ndarray = 0.0) -> np.ndarray:
        """f[..., P, M]: P(mode) of the first token, other tokens left out of account; with bias x effort added to each
        mode's logit. bias: a number, or f[B]."""
        raised = self.logits + np.asarray(bias)[..., None, None] * [mode.effort for mode in self.modes]
        chance = np.exp(raised - raised.max(axis=-1, keepdims=True))
        return chance / chance.sum(axis=-1, keepdims=True)

    def of(self, chosen: np.ndarray) -> Grid:
        """Those problems alone. chosen: i[P'] or bool[P]."""
        rest = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name not in ("extracted", "modes")}
        return Grid(
            **rest, modes=self.modes, extracted=tuple(self.extracted[i] for i in np.arange(len(self.weights))[chosen])
        )

    def means(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """f[P]: a problem's mean of values[P, S] over its judged answers (`where` among them); nan: there are none."""
        chosen = self.judged if where is None else self.judged & where
        counts = chosen.sum(axis=1)
        total = np.where(chosen, values, 0.0).sum(axis=1)
        return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def grid(
    answers: Iterable[Answer],
    uids: Sequence[str],
    samples: int,
    weights: np.ndarray | None = None,
    modes: Sequence[Mode] = MODES,
    whole: bool = True,
) -> Grid:
    """One way's answers, problems in the order of uids. weights: f[P] of the problems; None: all alike. whole: top_p
    was 1; else a log-prob of 0 may be that of a mode whose alternative was cut off, and says nothing."""
    by_name = {mode.name: place for place, mode in enumerate(modes)}
    places = {uid: place for place, uid in enumerate(uids)}
    shape = (len(uids), samples)
    names = ("judged", "correct", "strict", "lenient", "cut", "leaks")
    flags = {name: np.zeros(shape, bool) for name in names}
    tokens, reward, logprob, mode = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, -1)
    known = np.zeros(shape, bool)  # whether the first token's probability is
    extracted: list[list[str | None]] = [[None] * samples for _ in uids]
    for one in answers:
        at = places[one.uid], one.sample
        tokens[at], reward[at], extracted[at[0]][at[1]] = one.tokens, one.reward or 0.0, one.extracted
        flags["judged"][at] = Outcome(one.outcome).judged
        flags["correct"][at] = one.outcome == Outcome.CORRECT.value
        flags["strict"][at], flags["lenient"][at] = bool(one.strict), bool(one.lenient)
        flags["cut"][at], flags["leaks"][at] = one.outcome == Outcome.CUT_OFF.value, bool(one.leaks)
        mode[at], logprob[at] = -1 if one.mode is None else by_name[one.mode], one.logprob
        known[at] = one.way == FREE and one.mode is not None and (one.logprob < 0 or whole)
    weights = np.full(len(uids), 1.0) if weights is None else weights
    return Grid(
        **flags, tokens=tokens, reward=reward, place=mode, weights=weights, modes=tuple(modes),
        logits=_logits(np.where(known, mode, -1), logprob, len(modes)), extracted=tuple(map(tuple, extracted)),
    )  # fmt: skip


def _logits(place: np.ndarray, logprob: np.ndarray, count: int) -> np.ndarray:
    """f[P, count] from the first tokens that were sampled: place (-1: not known) and logprob are [P, S].

    Of two modes one sample tells both: the other one has the rest. Of more, those that a problem's samples have not
    taken share what is left in equal parts; with some samples a problem that is little.
    """
    found = np.full((len(place), count), np.nan)
    for mode in range(count):
        taken = place == mode
        total = np.where(taken, logprob, 0).sum(axis=1)
        np.divide(total, taken.sum(axis=1), out=found[:, mode], where=taken.any(axis=1))
    seen = ~np.isnan(found)
    left = np.maximum(1 - np.where(seen, np.exp(found), 0).sum(axis=1), np.exp(-CERTAIN))
    unseen = count - seen.sum(axis=1)
    rest = np.log(left / np.maximum(unseen, 1))
    whole = np.where(seen, found, rest[:, None])
    whole[~seen.any(axis=1)] = np.nan
    return whole - whole[:, :1]
