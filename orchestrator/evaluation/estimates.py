"""Means over problems with 95 % intervals. Problems are the trials: several answers to one are not independent.

In: one number a problem. Out: `Estimate`s, bootstrap samples. Must not know: what the numbers are of.

`proportion` of numbers from 0 to 1 (accuracy, think rate): Wilson's interval with the effective number of trials
p (1 - p) / (s^2 / P) and Student's quantile. One imagined problem with the binomial variance is added to s^2, since a
few problems that happen to agree say little about those that were not seen. Where levels of a generated task have
shares of their own, a problem's weight is its level's share over the level's problems.

`mean` of anything else (tokens): Student's t, corrected for skewness by Hall's cubic transformation (P. Hall, "On the
removal of skewness by transformation", J. R. Stat. Soc. B 54, 1992), because answers' lengths have a long tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.tracking.summary import wilson

ROUNDS, SEED = 2000, 0  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """values: f[P], each from 0 to 1: a problem's mean; weights: f[P], of the problems, None: all alike. None of no
    problem.

    Example: nine problems always right and one never -> 0.9 (0.52, 0.99).
    """
    count = len(values)
    if not count:
        return None
    share, error = _weighted(values, weights)
    if count == 1:
        return Estimate(share, 0.0, 1.0)
    imagined = (share * count + 0.5) / (count + 1)
    variance = error**2 * (count - 1) / count + imagined * (1 - imagined) / count**2
    trials = max(1.0, share * (1 - share) / variance) if 0 < share < 1 else float(count)
    low, high = wilson(share, trials, _student(count - 1))
    return Estimate(share, min(share, low), max(share, high))


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """values, weights: f[P]. None of no problem; of one, or of equal ones, the interval is the value."""
    count = len(values)
    if not count:
        return None
    value, error = _weighted(values, weights)
    if np.ptp(values) == 0:
        return Estimate(value, value, value)
    t = _student(count - 1)
    skewness = float((((values - value) / values.std()) ** 3).mean())
    return Estimate(value, value - error * _hall(t, skewness, count), value - error * _hall(-t, skewness, count))


def _weighted(values: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """(mean, its standard error)."""
    count = len(values)
    weights = np.ones(count) if weights is None else weights
    value = float(weights @ values / weights.sum())
    if count == 1:
        return value, 0.0
    shares = weights / weights.sum()
    return value, math.sqrt(float(shares**2 @ (values - value) ** 2) * count / (count - 1))


def _hall(t: float, skewness: float, count: int) -> float:
    """The quantile of (mean - truth) / error that Hall's transformation takes to t."""
    if abs(skewness) < 1e-9:
        return t
    g = skewness / math.sqrt(count)
    return float(np.cbrt(1 + g * (t - g / 6)) - 1) * 3 / g


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: exact for 1 and 2 degrees of freedom, else the expansion in 1 / freedom
    (Abramowitz and Stegun 26.7.5), within 0.2 % from 3 on."""
    if freedom < 3:
        return (12.7062, 4.3027)[freedom - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def resampled(columns: np.ndarray, weights: np.ndarray | None = None, seed: int = SEED) -> np.ndarray:
    """Bootstrap over problems. columns: f[F, P]; weights: f[P]. Returns f[ROUNDS, F]: the columns' weighted means in
    samples with replacement, the same problems for every column."""
    count = columns.shape[1]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=ROUNDS).astype(float)
    if weights is not None:
        drawn *= weights
    return np.asarray(drawn @ columns.T / drawn.sum(axis=1, keepdims=True))


def interval(value: float, samples: np.ndarray) -> Estimate:
    """With the bootstrap's percentiles. samples: f[ROUNDS]."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
