"""Evaluation: how often its 95 % intervals cover the truth, over simulated models. Run: python benchmarks/evaluation.py

Figures, one JSON line each on stdout, problems and samples beside (each over 4,000 evaluations; the truth is that of
the population that problems are drawn from):

    coverage_accuracy_mixed  mean accuracy; a problem's chance to be right is Beta(0.3, 0.7), as in a set with easy and
                             hard problems; goal 0.93 to 0.97, as of all
    coverage_accuracy_easy   likewise, Beta(5, 0.3): nearly all easy
    coverage_tokens          mean tokens; 30 % think (log-normal, median 6,500, sigma 0.85), the others take 500 (0.6)
    coverage_difference      accuracy of one model minus another's on the same problems, by the paired bootstrap (over
                             1,000 evaluations)
    evaluate_vs_vllm         tokens/s of an evaluation over those of bare vLLM on the same requests, and
    evaluate_tokens_per_s    its own (benchmarks/_evaluation/throughput.py); --throughput: these two alone

Five minutes, two of them for the last two figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks._evaluation.throughput import throughput
from benchmarks._figures import add_small, figure, figures_only, without_goals
from orchestrator.evaluation.estimates import Estimate, interval, mean, proportion, resampled

GOAL = "0.93 to 0.97"
SHAPES = ((30, 8), (100, 4), (500, 1), (500, 4))  # problems, samples


def covered(evaluations: int, truth: float, estimate: Callable[[], Estimate | None]) -> float:
    found = [estimate() for _ in range(evaluations)]
    return float(np.mean([one is not None and one.low <= truth <= one.high for one in found]))


def accuracy(rng: np.random.Generator, count: int, a: float, b: float, problems: int, samples: int) -> float:
    return covered(
        count, a / (a + b), lambda: proportion(rng.binomial(samples, rng.beta(a, b, problems)) / samples)
    )  # fmt: skip


def tokens(rng: np.random.Generator, count: int, problems: int) -> float:
    def draw() -> Estimate | None:
        normal, thinks = rng.standard_normal(problems), rng.random(problems) < 0.3
        return mean(np.where(thinks, 6500 * np.exp(0.85 * normal), 500 * np.exp(0.6 * normal)))

    return covered(count, 0.3 * 6500 * np.exp(0.85**2 / 2) + 0.7 * 500 * np.exp(0.6**2 / 2), draw)


def difference(rng: np.random.Generator, count: int, problems: int, samples: int) -> float:
    """The second model is right on a tenth of what the first one gets wrong as well."""

    def draw() -> Estimate:
        chance = rng.beta(0.3, 0.7, problems)
        pair = [rng.binomial(samples, p) / samples for p in (chance, chance + 0.1 * (1 - chance))]
        gain = (pair[1] - pair[0])[None]
        return interval(float(gain.mean()), resampled(gain)[:, 0])

    return covered(count, 0.1 * 0.7, draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughput", action="store_true", help="only the comparison with bare vLLM")
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    figures_only()
    if not arguments.throughput:
        coverage(arguments.small)
    throughput(arguments.small)


def coverage(small: bool) -> None:
    rng, count = np.random.default_rng(0), 50 if small else 4000
    for problems, samples in SHAPES:
        size = {"problems": problems, "samples": samples}
        for a, b in ((0.3, 0.7), (5.0, 0.3)):
            name = f"coverage_accuracy_{'mixed' if a < 1 else 'easy'}"
            figure(name, accuracy(rng, count, a, b, problems, samples), "share", GOAL, **size)
        figure("coverage_difference", difference(rng, count // 4, problems, samples), "share", GOAL, **size)
    for problems in (30, 100, 500):
        figure("coverage_tokens", tokens(rng, count, problems), "share", GOAL, problems=problems)


if __name__ == "__main__":
    main()
