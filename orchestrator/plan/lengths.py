"""How long answers turn out to be: log-normal in each mode, cut at the response cap.

In: means and spreads of two modes, a think rate, caps. Out: batches of lengths. Must not know: models, costs.

Half of the logarithm's variance belongs to the prompt, half to the sibling. One kind of prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from conf.schema import Config
from orchestrator.plan.costs import Batch
from rollout.data.generated import prompt_characters

PROMPT = 150  # tokens of a mathematics problem with its template
TEMPLATE = 15  # those of the generated task's question around its expression
# Of thinkless_1p5b's beginning (docs/plan.md says where they are from), and the cap that they belong to
THINK, THINK_SIGMA, SHORT, SHORT_SIGMA, CAP = 6500.0, 0.85, 500.0, 0.6, 24576


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens. think, short: medians of answers that no cap cuts."""

    think: float = THINK
    short: float = SHORT
    think_rate: float = 0.5
    prompt: int = PROMPT
    cap: int = CAP
    cap_think: int = CAP
    cap_short: int = CAP
    learnt: float = 1.0  # share of the groups whose rewards differ, so that the learner sees them

    @classmethod
    def of(cls, conf: Config) -> Lengths:
        """Assumed where nothing was measured: in proportion to the response cap."""
        rollout = conf.rollout
        cap, scale, longest = (
            rollout.max_response_tokens,
            rollout.max_response_tokens / CAP,
            conf.data.max_prompt_tokens,
        )
        return cls(
            max(THINK * scale, 2.0),
            max(SHORT * scale, 2.0),
            0.5,
            min(PROMPT if conf.data.path is not None else prompt_characters(conf.data) + TEMPLATE, longest),
            cap,
            min(cap, rollout.max_tokens_think or cap),
            min(cap, rollout.max_tokens_short or cap),
        )

    def batches(self, prompts: int, group: int, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        while True:
            z = math.sqrt(0.5) * (rng.standard_normal((prompts, 1)) + rng.standard_normal((prompts, group)))
            thinks = rng.random((prompts, group)) < self.think_rate
            think = np.clip(self.think * np.exp(THINK_SIGMA * z), 2, self.cap_think)
            short = np.clip(self.short * np.exp(SHORT_SIGMA * z), 2, self.cap_short)
            lengths = np.where(thinks, think, short).astype(np.int64)
            learnt = np.arange(prompts) < round(self.learnt * prompts)
            yield Batch(np.zeros(prompts, int), np.full(prompts, self.prompt), lengths, learnt)

    def means(self) -> tuple[float, float]:
        """(of answers that think, of short ones), as the caps leave them."""
        return (
            _mean(self.think, THINK_SIGMA, self.cap_think),
            _mean(self.short, SHORT_SIGMA, self.cap_short),
        )

    def with_means(self, think: float | None, short: float | None, think_rate: float) -> Lengths:
        """The same spread around measured means (None: no such answer), and a measured think rate."""
        return replace(
            self,
            think=self.think if think is None else _median(think, THINK_SIGMA, self.cap_think),
            short=self.short if short is None else _median(short, SHORT_SIGMA, self.cap_short),
            think_rate=think_rate,
        )


def _mean(median: float, sigma: float, cap: float) -> float:
    """E[min(X, cap)] of a log-normal X."""
    a = (math.log(cap) - math.log(median)) / sigma
    below = median * math.exp(sigma * sigma / 2) * _normal(a - sigma)
    return below + cap * (1 - _normal(a))


def _median(mean: float, sigma: float, cap: float) -> float:
    """The median under which the capped mean is `mean`, by bisection."""
    low, high = 1e-3, 100.0 * cap
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _mean(middle, sigma, cap) < mean else (low, middle)
    return math.sqrt(low * high)


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
