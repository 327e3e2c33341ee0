"""What choosing the mode is worth: the free choice beside each mode always, chance and the best mode.

In: the `Grid`s of all ways over the same problems. Out: accuracy and tokens of every router, and differences,
with intervals by a paired bootstrap over problems. Must not know: where answers are from.

All routers are computed from the same samples. `random` takes each mode as often as the free choice does, on problems
taken at chance; it needs no sampling, since its expectation is a mixture of the forced ways. `oracle` takes for each
problem the mode that is most often right, and of equally good ones that with the fewest tokens. Chosen and measured on
the same samples it would look better than it is, so it chooses by every second sample and is measured on the others,
and the other way round; with a single sample it is an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.answers import Grid
from orchestrator.evaluation.estimates import Estimate, interval, resampled


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


def routing(free: Grid, forced: Mapping[str, Grid]) -> Routing | None:
    """forced: the grid of each mode, by its name. None: no problem has a judged answer in all ways."""
    grids = [forced[mode.name] for mode in free.modes]  # from short to think
    right, tokens = (
        np.stack([one.means(getattr(one, name)) for one in (free, *grids)]) for name in ("correct", "tokens")
    )
    best, upper = _oracle(grids)
    rates = np.stack([free.means(free.place == place) for place in range(1, len(grids))])  # of modes that think
    columns = np.concatenate([right, tokens, best, rates])
    known = ~np.isnan(columns).any(axis=0)
    columns, weights = columns[:, known], free.weights[known]
    if not len(weights):
        return None
    exact, samples = columns @ weights / weights.sum(), resampled(columns, weights)
    names = [mode.name for mode in free.modes]
    values, spread = _routers(exact[None], names), _routers(samples, names)
    routers = {}
    for name, (accuracy, length) in values.items():
        a, t = spread[name]
        gain, ratio = values["free"][0] - accuracy, values["free"][1] / length
        routers[name] = Router(
            interval(float(accuracy[0]), a),
            interval(float(length[0]), t),
            interval(float(gain[0]), spread["free"][0] - a),
            interval(float(ratio[0]), spread["free"][1] / t),
        )
    return Routing(columns.shape[1], routers, upper)


def _routers(means: np.ndarray, modes: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """means: f[B, columns of `routing`]; modes: from short to think -> router: (accuracy f[B], tokens f[B])."""
    count = len(modes) + 1
    right, tokens, best, rates = np.split(means.T, [count, 2 * count, 2 * count + 2])
    rates = np.concatenate([1 - rates.sum(axis=0, keepdims=True), rates])
    always = {name: (right[1 + place], tokens[1 + place]) for place, name in enumerate(modes)}
    return {
        "free": (right[0], tokens[0]),
        **dict(reversed(always.items())),
        "random": ((rates * right[1:]).sum(axis=0), (rates * tokens[1:]).sum(axis=0)),
        "oracle": (best[0], best[1]),
    }


def _oracle(grids: Sequence[Grid]) -> tuple[np.ndarray, bool]:
    """(f[2, P]: its accuracy and tokens, whether they are an upper bound). grids: of the modes, from short to think."""
    samples = grids[0].judged.shape[1]
    even = np.arange(samples) % 2 == 0
    halves = [(even, ~even), (~even, even)] if samples > 1 else [(even, even)]
    found = []
    for chosen_by, measured_on in halves:
        right, tokens = (
            np.stack([one.means(getattr(one, name), chosen_by[None]) for one in grids])
            for name in ("correct", "tokens")
        )
        best = np.lexsort((tokens, -right), axis=0)[:1]  # the first of equal ones: the cheapest mode
        figures = [
            np.take_along_axis(
                np.stack([one.means(getattr(one, name), measured_on[None]) for one in grids]), best, axis=0
            )[0]
            for name in ("correct", "tokens")
        ]
        known = ~np.isnan(np.concatenate([right, tokens])).any(axis=0)
        found.append(np.where(known, np.stack(figures), np.nan))
    return np.mean(found, axis=0), samples == 1
