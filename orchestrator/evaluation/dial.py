"""The dial: a bias on the modes' logits trades accuracy for tokens, without retraining.

In: the `Grid`s of all ways. Out: the curve, its area, the points for a token budget and for a tolerated error;
how well P(think) is calibrated. Must not know: how a bias reaches a sampler.

The bias b is added to each mode's logit times the mode's effort: all of it to think, none to short, half of it to a
mode halfway. So one number leads from always short by way of the modes between to always think; were it added to think
alone, the modes between could never be reached by turning it.

No further sampling is needed. A problem's first token is a mode with probability softmax(logits + b / T efforts), the
logits being those without it, at the temperature T (other first tokens are left out of account): samplers add a bias
before they divide by the temperature. What follows the control token is as in the forced ways. So a problem's expected
accuracy and tokens are a mixture of those, and the curve is exact in expectation for every b at once. Intervals:
bootstrap over problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.answers import CERTAIN, Grid
from orchestrator.evaluation.estimates import Estimate, interval, resampled

STEPS = 81  # of the bias, between those where all of it thinks and none of it
BINS = 10  # of P(think)


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """The curve, from never thinking to always; B points."""

    bias: np.ndarray  # f[B], times a mode's effort added to its logit
    think_rate: np.ndarray  # f[B]
    accuracy: np.ndarray  # f[B]
    tokens: np.ndarray  # f[B]
    accuracy_interval: np.ndarray  # f[B, 2]
    tokens_interval: np.ndarray  # f[B, 2]
    area: Estimate
    problems: int
    certain: int  # of them: those whose place is a bound, since their mode is certain as far as float32 says

    def for_budget(self, tokens: float) -> int | None:
        """The point of the highest accuracy that takes at most `tokens` a response. None: even short answers take
        more."""
        within = np.flatnonzero(self.tokens <= tokens)
        if not len(within):
            return None
        return int(within[np.lexsort((self.tokens[within], -self.accuracy[within]))[0]])

    def for_error(self, error: float) -> int:
        """The point of the fewest tokens whose accuracy is at most `error` below the curve's highest."""
        within = np.flatnonzero(self.accuracy >= self.accuracy.max() - error - 1e-12)
        return int(within[np.argmin(self.tokens[within])])


def trace(free: Grid, forced: Mapping[str, Grid], temperature: float = 1.0) -> Dial | None:
    """forced: the grid of each mode, by its name; temperature: of sampling. None: no problem has a judged answer in all
    ways and a known first token.

    `area`: between the curve and the straight line from never to always thinking, divided by the tokens between these:
    the mean accuracy by which the dial is above a choice by chance of the same tokens. 0: P(think) knows nothing of
    which problems need thinking. nan: both ends take the same tokens.
    """
    right, length = _means(free, forced)
    known = ~np.isnan(np.concatenate([right, length])).any(axis=0) & free.known
    right, length, chosen = right[:, known], length[:, known], free.of(known)
    weights, count = chosen.weights, int(known.sum())
    if not count:
        return None
    steps = len(chosen.modes) - 1
    reach = steps * max(8.0, float(np.abs(chosen.logits).max()) + 5.0)
    bias = np.linspace(-reach, reach, STEPS)
    chance = chosen.chances(bias)  # f[B, P, M]
    mixed = [(chance * values.T).sum(axis=-1) for values in (right, length)]
    ends = np.stack([right[0], right[-1], length[0], length[-1]])
    exact = np.concatenate([*mixed, ends, 1 - chance[..., 0]])
    means, samples = exact @ weights / weights.sum(), resampled(exact[: 2 * STEPS + 4], weights)
    accuracy, tokens = means[:STEPS], means[STEPS : 2 * STEPS]
    area = _area(means[None, : 2 * STEPS + 4])
    low_high = np.quantile(samples[:, : 2 * STEPS], [0.025, 0.975], axis=0).T
    certain = np.abs(chosen.logits).max(axis=1) >= CERTAIN - 1e-3
    return Dial(
        bias * temperature, means[-STEPS:], accuracy, tokens, low_high[:STEPS], low_high[STEPS:],
        interval(float(area[0]), _area(samples)), count, int(certain.sum()),
    )  # fmt: skip


def _means(free: Grid, forced: Mapping[str, Grid]) -> tuple[np.ndarray, np.ndarray]:
    """f[M, P]: accuracy and tokens of each problem in each mode, from short to think."""
    grids = [forced[mode.name] for mode in free.modes]
    return np.stack([one.means(one.correct) for one in grids]), np.stack([one.means(one.tokens) for one in grids])


def _area(means: np.ndarray) -> np.ndarray:
    """means: f[B, 2 STEPS + 4]: accuracies, tokens, and both of the two ends -> f[B]."""
    accuracy, tokens = means[:, :STEPS], means[:, STEPS : 2 * STEPS]
    short, think, short_t, think_t = means[:, 2 * STEPS :].T
    x = np.concatenate([short_t[:, None], tokens, think_t[:, None]], axis=1)
    y = np.concatenate([short[:, None], accuracy, think[:, None]], axis=1)
    under = ((y[:, 1:] + y[:, :-1]) / 2 * np.diff(x, axis=1)).sum(axis=1)
    chord = (short + think) / 2 * (think_t - short_t)
    span = think_t - short_t
    return np.divide(under - chord, span, out=np.full(len(span), np.nan), where=np.abs(span) > 1e-9)


@dataclass(frozen=True, slots=True)
class Bin:
    """Problems whose P(think) is in one of BINS equal parts of [0, 1]."""

    problems: int
    p_think: float  # mean
    gain: Estimate  # accuracy when thinking minus accuracy when short


@dataclass(frozen=True, slots=True)
class Calibration:
    """How P(think) goes with what thinking gains. ece: sum over bins of their share of problems x |p_think - gain|."""

    bins: tuple[Bin, ...]
    ece: float
    correlation: float  # of P(think) and gain over problems; nan: one of them does not vary


def calibration(free: Grid, forced: Mapping[str, Grid]) -> Calibration | None:
    """P(think): of all modes that think together. What they gain is a mixture of theirs as the model chooses them."""
    right, _ = _means(free, forced)
    known = ~np.isnan(right).any(axis=0) & free.known
    if not known.any():
        return None
    chosen = free.of(known)
    each, weights = chosen.chances().T, chosen.weights  # f[M, P]
    chance = each[1:].sum(axis=0)
    gain = (each[1:] * right[1:, known]).sum(axis=0) / chance - right[0, known]
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    bins, total = [], 0.0
    for number in np.unique(place):
        mine = place == number
        value, p_think = (float(np.average(one[mine], weights=weights[mine])) for one in (gain, chance))
        spread = resampled(gain[None, mine], weights[mine])[:, 0]
        bins.append(Bin(int(mine.sum()), p_think, interval(value, spread)))
        total += weights[mine].sum() / weights.sum() * abs(p_think - value)
    varies = gain.std() > 0 and chance.std() > 0
    correlation = float(np.corrcoef(chance, gain)[0, 1]) if varies else float("nan")
    return Calibration(tuple(bins), float(total), correlation)
