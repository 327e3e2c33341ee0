"""What 4 GPUs are given to, simulated: the layouts that the recipe could have, and the one that its preset has.

In: the simulated pipeline and the formulas of `orchestrator.plan`, with the recipe of `_pipeline.scale`. Out: seconds a
step and hours per 600 steps of each layout. Must not know: clocks, so that the result is the same everywhere. Nothing
here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks._pipeline.scale import GPU, GROUP, LENGTHS, MODEL, mean, recipe
from conf.schema import OnWeightSync
from orchestrator.plan.formulas import Assumptions, costs
from orchestrator.plan.layouts import Layout
from orchestrator.plan.simulation import Pipeline

STEPS, PROMPTS, RUN = 24, 128, 600  # steps that are averaged; prompts of a batch; steps of the recipe
RECOMPUTE = OnWeightSync.recompute
FORMER = Layout(2, 2, 0, 0)  # the preset before samplers and ranks shared their GPUs
DEFAULT = Layout(4, 4, 4, 1, RECOMPUTE)  # experiment=thinkless_1p5b
LAYOUTS = (
    FORMER,
    Layout(2, 2, 0, 1),
    Layout(3, 1, 0, 1),
    Layout(3, 1, 0, 2),
    Layout(4, 2, 2, 1, RECOMPUTE),
    Layout(4, 3, 3, 1, RECOMPUTE),
    Layout(4, 4, 4, 0),
    DEFAULT,
    Layout(4, 4, 4, 2, RECOMPUTE),
)


@dataclass(frozen=True, slots=True)
class Simulated:
    seconds: float  # a step
    sampling: float  # share of the time of all GPUs
    learning: float
    cache_gb: float  # most of one engine
    staleness: int

    @property
    def hours(self) -> float:
        return self.seconds * RUN / 3600


def simulated(layout: Layout, steps: int = STEPS, seed: int = 1, slower: float = 1.0, host: bool = True) -> Simulated:
    """The first steps, which fill the queue, and the last ones, which empty it, are left out. slower: times that a
    hand-over takes as long as is assumed; host: with the host's part of an engine step."""
    given = Assumptions(hand_over=slower)
    if not host:
        given = replace(given, host_step_s=0.0, host_sequence_s=0.0)
    spent = costs(MODEL, GPU, recipe(PROMPTS, layout.gpus), layout.samplers, layout.ranks, layout.shared, given)
    skip = 2 * layout.staleness + 1
    pipeline = Pipeline(
        spent, layout.samplers, layout.staleness, float(LENGTHS.cap), layout.on_weight_sync, layout.shared
    )
    batches = LENGTHS.batches(PROMPTS, GROUP, seed)
    found = pipeline.simulate(batches, skip + steps + layout.staleness)[skip : skip + steps]
    seconds = mean(found, "seconds")
    return Simulated(
        seconds,
        mean(found, "sampled") / layout.gpus / seconds,
        mean(found, "learning") * layout.ranks / layout.gpus / seconds,
        max(step.context for step in found) * MODEL.kv_bytes / 1e9,
        max(step.staleness for step in found),
    )


def table(found: dict[Layout, Simulated], hidden: dict[Layout, Simulated]) -> str:
    """Markdown. hidden: the same without the host's part of a step."""
    lines = [
        f"| 4 GPUs | run.max_staleness | s a step | hours per {RUN} steps | steps/s, former preset 1 | sampling | "
        "learning | neither | host hidden: s a step | steps/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layout, one in found.items():
        bold = "**" if layout == DEFAULT else ""
        lines.append(
            f"| {bold}{layout.name}{bold} | {layout.staleness} | {one.seconds:.0f} | {one.hours:.1f} | "
            f"{found[FORMER].seconds / one.seconds:.2f} | {one.sampling:.0%} | {one.learning:.0%} | "
            f"{1 - one.sampling - one.learning:.0%} | {hidden[layout].seconds:.0f} | "
            f"{hidden[FORMER].seconds / hidden[layout].seconds:.2f} |"
        )
    return "\n".join(lines)
