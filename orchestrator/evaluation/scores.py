"""Figures of one way of answering: accuracy over all samples, pass@k, majority@k, tokens, truncation, leaks.

In: a `Grid`. Out: plain numbers and `Estimate`s. Must not know: other ways, files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.evaluation.answers import Grid
from orchestrator.evaluation.estimates import Estimate, mean, proportion

KS = (2, 4, 8, 16, 32, 64)  # of pass@k and majority@k
SHUFFLES = 200  # draws of k samples, where majority@k has too many to count


def scores(grid: Grid, ks: tuple[int, ...] = KS) -> dict[str, Any]:
    """Of one way, or of one level of it. ks: for pass@k and majority@k; those above the samples are
    left out.

    accuracy: avg@n, each problem's mean of its samples, over problems. tokens: of responses: the mean over problems,
    median and 95th percentile over answers; by mode likewise. None: nothing to measure it on.
    """
    judged = grid.judged
    found: dict[str, Any] = {
        "problems": int(judged.any(axis=1).sum()),
        "answers": int(judged.sum()),
        "unjudged": int(judged.size - judged.sum()),
        "accuracy": _share(grid, grid.correct),
        "strict_accuracy": _share(grid, grid.strict),
        "lenient_accuracy": _share(grid, grid.lenient),
        "reward": _mean(grid, grid.reward),
        "think_rate": _share(grid, grid.thinks),
        "no_mode": _share(grid, grid.place < 0),
        "truncated": _share(grid, grid.cut),
        "tokens": _lengths(grid, judged),
        "by_mode": {
            name: {
                "answers": int((judged & chosen).sum()),
                "accuracy": _share(grid, grid.correct, chosen),
                "tokens": _lengths(grid, chosen),
            }
            for name, chosen in ((mode.name, grid.place == place) for place, mode in reversed([*enumerate(grid.modes)]))
        },
        "leakage": _share(grid, grid.leaks, grid.place == 0),
    }
    least = int(judged.sum(axis=1).min()) if len(judged) else 0
    for k in (k for k in ks if 1 < k <= least):
        found[f"pass@{k}"] = proportion(pass_at(k, grid), grid.weights)
        found[f"majority@{k}"] = proportion(majority_at(k, grid), grid.weights)
    return found


def _share(grid: Grid, flags: np.ndarray, where: np.ndarray | None = None) -> Estimate | None:
    values = grid.means(flags, where)
    known = ~np.isnan(values)
    return proportion(values[known], grid.weights[known])


def _mean(grid: Grid, values: np.ndarray, where: np.ndarray | None = None) -> Estimate | None:
    means = grid.means(values, where)
    known = ~np.isnan(means)
    return mean(means[known], grid.weights[known])


def _lengths(grid: Grid, where: np.ndarray) -> dict[str, Any]:
    """Tokens of the judged answers in where[P, S]; every problem weighs as much in the quantiles as in the mean."""
    chosen = grid.judged & where
    each = grid.weights[:, None] / np.maximum(chosen.sum(axis=1, keepdims=True), 1)
    every, weights = grid.tokens[chosen], np.broadcast_to(each, chosen.shape)[chosen]
    median, high = (_quantile(every, weights, q) for q in (0.5, 0.95))
    return {"mean": _mean(grid, grid.tokens, where), "median": median, "p95": high}


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float | None:
    """The smallest value that a share q of the weight does not exceed. None of no value."""
    if not len(values):
        return None
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(share, q - 1e-12)), len(values) - 1)])


def pass_at(k: int, grid: Grid) -> np.ndarray:
    """f[P]: the chance that k of a problem's n samples hold a right one, 1 - C(n - c, k) / C(n, k), c of them right:
    unbiased (M. Chen et al., arXiv 2107.03374, eq. 1). Every problem needs k judged samples."""
    n, c = grid.judged.sum(axis=1), (grid.judged & grid.correct).sum(axis=1)
    return np.array([1 - math.comb(int(a - b), k) / math.comb(int(a), k) for a, b in zip(n, c, strict=True)])


def majority_at(k: int, grid: Grid, seed: int = 0) -> np.ndarray:
    """f[P]: the chance that the commonest final answer of k of a problem's samples is right.

    Right answers are one answer, whatever their form; wrong ones are alike if their text is, but for spaces; those
    without an answer do not vote. Among equally common ones each has the same chance. All n samples: exact; fewer:
    the mean of SHUFFLES draws.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(len(grid.judged))
    for place, (judged, correct, texts) in enumerate(zip(grid.judged, grid.correct, grid.extracted, strict=True)):
        at = np.flatnonzero(judged)
        votes = [_vote(bool(correct[i]), texts[i]) for i in at]
        if k == len(votes):
            found[place] = _won(votes)
        else:
            found[place] = np.mean([_won([votes[i] for i in rng.permutation(len(votes))[:k]]) for _ in range(SHUFFLES)])
    return found


def _vote(correct: bool, text: str | None) -> str | bool | None:
    return True if correct else None if text is None else "".join(text.split())


def _won(votes: list[str | bool | None]) -> float:
    counts: dict[str | bool, int] = {}
    for vote in votes:
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
    most = max(counts.values(), default=0)
    return (counts[True] == most) / list(counts.values()).count(most) if counts.get(True) else 0.0
