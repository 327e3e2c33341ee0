"""Checks that sampler and learner hold the same policy: both score a few fresh samples.

In: sampler, learner, prompts. Out: nothing, or a RunError that stops the run: training on another policy's log-probs
looks healthy and learns nothing. Must not know: rewards, the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from conf.schema import Config, Dtype
from learner.data.batch import Sequence
from learner.data.pack import pack
from learner.learner import Learner
from learner.loss import Totals
from orchestrator.base.errors import RunError
from orchestrator.base.observer import Observer
from rollout.prompt import Prompt
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory

PROMPTS, SIBLINGS = 8, 2
ENOUGH = 2000  # tokens from which neither the 99.9 % quantile nor the KL estimate hangs on a few


@dataclass(frozen=True, slots=True)
class Bounds:
    """In nats, for differences of log-probs."""

    mean_abs: float
    p999_abs: float
    kl: float


# Twice (mean, bfloat16) to a hundred times (KL, float32) what random weights showed over 100,000 tokens
# (benchmarks/mismatch.py). In bfloat16 trained ones are a hundred times closer, and small faults stay below.
BOUNDS = {
    Dtype.float32: Bounds(mean_abs=5e-5, p999_abs=5e-4, kl=1e-8),
    Dtype.bfloat16: Bounds(mean_abs=0.1, p999_abs=1.0, kl=0.01),
}


class LogprobCheck(Observer):
    """Stops on the mean, the 99.9 % quantile and the KL estimate of the differences, whose bounds are
    run.logprob_check_mean_abs, _p999_abs and _kl, or by dtype where these are null. The largest difference is reported
    only: a single token of thousands may be far off in bfloat16 where nothing is wrong."""

    def __init__(self, sampler: Sampler, learner: Learner, prompts: list[Prompt], conf: Config):
        run = conf.run
        given = {
            "mean_abs": run.logprob_check_mean_abs,
            "p999_abs": run.logprob_check_p999_abs,
            "kl": run.logprob_check_kl,
        }
        self.given = {name: bound for name, bound in given.items() if bound is not None}
        self.bounds = replace(BOUNDS[conf.model.dtype], **self.given)
        self.sampler, self.learner, self.prompts = sampler, learner, prompts[:PROMPTS]
        self.every, self.max_tokens = run.logprob_check_every, conf.learner.max_tokens

    def begin(self, step: int) -> None:
        self.check(step)

    def after_step(self, step: int) -> None:
        if self.every and step % self.every == 0:
            self.check(step)

    def check(self, step: int) -> dict[str, float]:
        """Compare at the run's temperature, right after a push. Raises RunError above a bound."""
        if not self.every:
            return {}
        trajectories = self.sampler.sample(self.prompts, SIBLINGS, -1 - step, urgent=True).wait()
        gaps = logprob_gaps(trajectories, self.learner, self.sampler.sampling.temperature, self.max_tokens)
        return self.bound(gaps, step)

    def bound(self, gaps: np.ndarray, step: int) -> dict[str, float]:
        """`differences` of `logprob_gaps`. Raises RunError above a bound: the mean's, the others' from `ENOUGH` tokens
        on, and those that were given."""
        figures = differences(gaps)
        checked = [
            name for name in ("mean_abs", "p999_abs", "kl") if name in {"mean_abs", *self.given} or len(gaps) >= ENOUGH
        ]
        if not all(figures[name] <= getattr(self.bounds, name) for name in checked):
            shown = ", ".join(
                f"{figures[name]:.2e} (run.logprob_check_{name}: {getattr(self.bounds, name):g})" for name in checked
            )
            raise RunError(
                f"after the push of step {step} sampler and learner disagree on the log-probs of {len(gaps)} tokens: "
                f"{shown}, largest difference {figures['max_abs']:.2e} nats: the learner computed this model as "
                "transformers does when it loaded it (learner/model/parity.py), so the fault is on the sampler's side: "
                "the weights did not arrive whole, or vLLM computes them differently (dtype, temperature)"
            )
        return figures


def differences(gaps: np.ndarray) -> dict[str, float]:
    """gaps: log-prob(learner) - log-prob(sampler), f32[tokens]. Nats: mean, 99.9 % quantile and largest |gap|, and the
    k3 estimate of KL(sampler, learner) (http://joschu.net/blog/kl-approx.html) of all tokens but the one that is
    furthest off, which an exponential would let decide alone."""
    gaps = gaps.astype(np.float64)
    others = np.delete(gaps, np.abs(gaps).argmax()) if len(gaps) > 1 else gaps
    return {
        "mean_abs": float(np.abs(gaps).mean()),
        "p999_abs": float(np.quantile(np.abs(gaps), 0.999, method="lower")),
        "max_abs": float(np.abs(gaps).max()),
        "kl": float((np.expm1(others) - others).mean()),
    }


def logprob_gaps(trajectories: list[Trajectory], learner: Learner, temperature: float, max_tokens: int) -> np.ndarray:
    """log-prob(learner) - log-prob(sampler) of every sampled token, f32[tokens]; forced control tokens left out."""
    sequences = []
    for t in trajectories:
        chosen = np.ones(len(t.token_ids), np.float32)
        chosen[0] = 0.0 if t.forced else 1.0  # carried in the weights, which nothing else uses here
        ids = np.concatenate([t.prompt.token_ids, t.token_ids])
        sequences.append(Sequence(ids, len(t.prompt.token_ids), chosen, chosen, 0.0, t.behavior_logprobs, -1))
    totals = Totals(len(sequences), 1, 1)
    batch = pack(sequences, totals, max_tokens, learner.shares)
    gaps = [
        (scored - mb.behavior_logprobs)[mb.response & (mb.weights > 0)]
        for mb, scored in learner.logprobs(batch, temperature)
    ]
    return np.concatenate(gaps)
