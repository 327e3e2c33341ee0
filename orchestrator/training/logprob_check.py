"""Checks that sampler and learner hold the same policy: both score a few fresh samples.

In: sampler, learner, prompts. Out: nothing, or a RunError that stops the run: training on another policy's log-probs
looks healthy and learns nothing. Must not know: rewards, the loop.
"""

from __future__ import annotations

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
BOUNDS = {  # largest and mean |difference|, nats: above rounding, far below any fault (a forgotten push: 0.1 and more)
    Dtype.float32: (1e-3, 2e-5),  # measured on a CPU: 1.4e-4 at most among 500,000 tokens of a run, mean 3e-7
    Dtype.bfloat16: (2.0, 0.05),  # not yet measured on a GPU
}


class LogprobCheck(Observer):
    """run.logprob_check_max_abs and run.logprob_check_mean_abs, or the bounds of `dtype` where they are null."""

    def __init__(self, sampler: Sampler, learner: Learner, prompts: list[Prompt], conf: Config):
        run, bounds = conf.run, BOUNDS[conf.model.dtype]
        self.sampler, self.learner, self.prompts = sampler, learner, prompts[:PROMPTS]
        self.every, self.max_tokens = run.logprob_check_every, conf.learner.max_tokens
        self.max_abs = bounds[0] if run.logprob_check_max_abs is None else run.logprob_check_max_abs
        self.mean_abs = bounds[1] if run.logprob_check_mean_abs is None else run.logprob_check_mean_abs

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
        gaps = gaps.astype(np.float64)
        figures = {
            "max_abs": float(np.abs(gaps).max()),
            "mean_abs": float(np.abs(gaps).mean()),
            "kl": float((np.exp(gaps) - gaps - 1).mean()),  # k3 of sampler to learner, gaps = learner - sampler
        }
        if not (figures["max_abs"] <= self.max_abs and figures["mean_abs"] <= self.mean_abs):
            raise RunError(
                f"after the push of step {step} sampler and learner disagree on the log-probs of {len(gaps)} tokens: "
                f"largest difference {figures['max_abs']:.2e} nats (run.logprob_check_max_abs: {self.max_abs:g}), "
                f"mean {figures['mean_abs']:.2e} (run.logprob_check_mean_abs: {self.mean_abs:g}), KL "
                f"{figures['kl']:.2e}: the learner computed this model as transformers does when it loaded it "
                "(learner/model/parity.py), so the fault is on the sampler's side: the weights did not arrive whole, "
                "or vLLM computes them differently (dtype, temperature)"
            )
        return figures


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
