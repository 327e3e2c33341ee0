"""Several models on the same problems: differences with intervals by a paired bootstrap over problems.

In: each model's `Grid` of the free choice. Out: `Difference`s. Must not know: models, files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.answers import Grid
from orchestrator.evaluation.estimates import Estimate, interval, resampled


@dataclass(frozen=True, slots=True)
class Difference:
    """Of `model` from `base`, over the problems that both have a judged answer to."""

    base: str
    model: str
    problems: int
    accuracy: Estimate  # the model's minus the base's
    token_ratio: Estimate  # the model's / the base's
    better: float  # share of the bootstrap samples in which the model is more often right; ties count half


def differences(grids: Mapping[str, Grid]) -> list[Difference]:
    """Of every model from the first one. Problems are in the same order in all of them."""
    (base, first), *others = grids.items()
    found = []
    for name, grid in others:
        columns = np.stack([g.means(values) for g in (first, grid) for values in (g.correct, g.tokens)])
        known = ~np.isnan(columns).any(axis=0)
        columns, weights = columns[:, known], first.weights[known]
        if not len(weights):
            continue
        a, a_t, b, b_t = columns @ weights / weights.sum()
        samples = resampled(columns, weights)
        gains = samples[:, 2] - samples[:, 0]
        found.append(
            Difference(
                base,
                name,
                columns.shape[1],
                interval(float(b - a), gains),
                interval(float(b_t / a_t), samples[:, 3] / samples[:, 1]),
                float((gains > 0).mean() + (gains == 0).mean() / 2),
            )
        )
    return found
