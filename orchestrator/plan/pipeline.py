"""One layout of one configuration, simulated: seconds of a step by part.

In: a layout, a configuration, a model's shape, a GPU, lengths, assumptions. Out: `Simulated`. Must not know: memory,
prices, other layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from conf.schema import Config
from orchestrator.plan.costs import Costs, Step
from orchestrator.plan.formulas import Assumptions, Recipe, costs
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.layouts import Layout
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.simulation import Pipeline

STEPS, FEWEST, SEQUENCES, SEED = 16, 3, 100_000, 1  # steps that are averaged: fewer where a batch is large


@dataclass(frozen=True, slots=True)
class Simulated:
    """Means of the steps in the middle of a run. rollout, reward, learner, push: seconds of a step that the loop waited
    for each; rest: what else is in a step."""

    seconds: float
    rollout: float
    reward: float
    learner: float
    push: float
    rest: float
    sampled: float  # engine-seconds of sampling in a step
    learning: float  # seconds that the ranks work
    busy: float  # share of the GPUs' time in which they sample or learn
    staleness: int  # the oldest token's, of any step
    context: int  # most tokens that one engine's sequences held
    tokens: float  # response tokens of a step
    hand_over: float  # seconds of a step, colocated

    @property
    def waits(self) -> str:
        """Whom the loop waits for most."""
        parts = {"sampling": self.rollout, "grading": self.reward, "learning": self.learner, "weight sync": self.push}
        return max(parts, key=lambda name: parts[name])


def simulate(
    layout: Layout, conf: Config, model: ModelShape, gpu: Hardware, lengths: Lengths, given: Assumptions
) -> Simulated:
    """The first steps, which fill the queue, and the last ones, which empty it, are left out."""
    conf = layout.applied(conf)
    recipe = Recipe.of(conf)
    shared = layout.shared if gpu.gpu else 0  # on a CPU nothing is handed over
    spent = costs(model, gpu, recipe, layout.samplers, layout.ranks, shared, given)
    skip = 2 * layout.staleness + 1
    steps = max(FEWEST, min(STEPS, SEQUENCES // (recipe.prompts * recipe.group)))
    pipeline = Pipeline(spent, layout.samplers, layout.staleness, float(lengths.cap), layout.on_weight_sync, shared)
    batches = lengths.batches(recipe.prompts, recipe.group, SEED)
    found = pipeline.simulate(batches, skip + steps + layout.staleness)[skip : skip + steps]
    seconds = _mean(found, "seconds")
    parts = {name: _mean(found, name) for name in ("rollout", "reward", "learner", "push")}
    sampled, learning = _mean(found, "sampled"), _mean(found, "learning")
    working = sampled * layout.tensor_parallel + learning * layout.ranks
    return Simulated(
        seconds,
        **parts,
        rest=max(seconds - sum(parts.values()), 0.0),
        sampled=sampled,
        learning=learning,
        busy=working / layout.gpus / seconds if gpu.gpu else min(working / layout.gpus / seconds, 1.0),
        staleness=max(step.staleness for step in found),
        context=max(step.context for step in found),
        tokens=_mean(found, "tokens"),
        hand_over=spent.to_learner_s + spent.to_push_s + spent.to_samplers_s if shared else 0.0,
    )


def validation_seconds(
    layout: Layout, conf: Config, model: ModelShape, gpu: Hardware, lengths: Lengths, given: Assumptions
) -> float:
    """Of one validation: nothing but sampling and grading."""
    size, samples = conf.validation.size, conf.validation.samples
    if not size or not conf.evaluate.every:
        return 0.0
    cap = conf.evaluate.max_response_tokens or lengths.cap
    capped = replace(lengths, cap=cap, cap_think=min(cap, lengths.cap_think), cap_short=min(cap, lengths.cap_short))
    recipe = Recipe.of(layout.applied(conf))
    spent = costs(model, gpu, recipe, layout.samplers, layout.ranks, 0, given)
    alone = Costs(spent.engine, lambda batch: 0.0, reward=spent.reward, call_s=spent.call_s)
    batches = capped.batches(size, samples, SEED)
    (step,) = Pipeline(alone, layout.samplers, 0, float(cap)).simulate(batches, 1)
    return step.rollout + step.reward


def _mean(steps: list[Step], name: str) -> float:
    return float(np.mean([getattr(step, name) for step in steps]))
