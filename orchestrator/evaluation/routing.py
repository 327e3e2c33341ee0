"""What choosing the mode is worth: the free choice beside always thinking, never thinking, chance and the best mode.

In: the `Grid`s of the three ways over the same problems. Out: accuracy and tokens of every router, and differences,
with intervals by a paired bootstrap over problems. Must not know: where answers are from.

All routers are computed from the same samples. `random` thinks as often as the free choice does, on problems taken at
chance; it needs no sampling, since its expectation is a mixture of the forced ways. `oracle` takes for each problem the
mode that is more often right, and of two that are equally often right the one with fewer tokens. Chosen and measured on
the same samples it would look better than it is, so it chooses by every second sample and is measured on the others,
and the other way round; with a single sample it is an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.answers import Grid
from orchestrator.evaluation.estimates import Estimate, interval, resampled

ROUTERS = ("free", "think", "short", "random", "oracle")


@dataclass(frozen=True, slots=True)
class Router:
    accuracy: Estimate
    tokens: Estimate
    accuracy_gain: Estimate  # of the free choice over it
    token_ratio: Estimate  # tokens of the free choice / its own


@dataclass(frozen=True, slots=True)
class Routing:
    """problems: with a judged answer in every way, over which all of it is."""

    problems: int
    routers: dict[str, Router]
    upper_bound: bool  # the oracle's figures are one: a single sample


def routing(free: Grid, think: Grid, short: Grid) -> Routing | None:
    """None: no problem has a judged answer in all three ways."""
    ways = (free, think, short)
    right = np.stack([one.means(one.correct) for one in ways])
    tokens = np.stack([one.means(one.tokens) for one in ways])
    best, upper = _oracle(think, short)
    columns = np.concatenate([right, tokens, best, free.means(free.thinks)[None]])
    known = ~np.isnan(columns).any(axis=0)
    columns, weights = columns[:, known], free.weights[known]
    if not len(weights):
        return None
    exact, samples = columns @ weights / weights.sum(), resampled(columns, weights)
    values, spread = _routers(exact[None]), _routers(samples)
    routers = {}
    for name in ROUTERS:
        (accuracy, length), (a, t) = values[name], spread[name]
        gain, ratio = values["free"][0] - accuracy, values["free"][1] / length
        routers[name] = Router(
            interval(float(accuracy[0]), a),
            interval(float(length[0]), t),
            interval(float(gain[0]), spread["free"][0] - a),
            interval(float(ratio[0]), spread["free"][1] / t),
        )
    return Routing(columns.shape[1], routers, upper)


def _routers(means: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """means: f[B, 9] of `routing`'s columns -> router: (accuracy f[B], tokens f[B])."""
    free, think, short, free_t, think_t, short_t, best, best_t, rate = means.T
    return {
        "free": (free, free_t),
        "think": (think, think_t),
        "short": (short, short_t),
        "random": (rate * think + (1 - rate) * short, rate * think_t + (1 - rate) * short_t),
        "oracle": (best, best_t),
    }


def _oracle(think: Grid, short: Grid) -> tuple[np.ndarray, bool]:
    """(f[2, P]: its accuracy and tokens, whether they are an upper bound)."""
    samples = think.judged.shape[1]
    even = np.arange(samples) % 2 == 0
    halves = [(even, ~even), (~even, even)] if samples > 1 else [(even, even)]
    found = []
    for chosen_by, measured_on in halves:
        right, tokens = (
            np.stack([one.means(getattr(one, name), chosen_by[None]) for one in (think, short)])
            for name in ("correct", "tokens")
        )
        thinks = (right[0] > right[1]) | ((right[0] == right[1]) & (tokens[0] < tokens[1]))
        figures = [
            np.where(thinks, *(one.means(getattr(one, name), measured_on[None]) for one in (think, short)))
            for name in ("correct", "tokens")
        ]
        known = ~np.isnan(np.concatenate([right, tokens])).any(axis=0)
        found.append(np.where(known, np.stack(figures), np.nan))
    return np.mean(found, axis=0), samples == 1
