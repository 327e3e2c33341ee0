"""What 4 GPUs are given to, simulated: the layouts that the recipe could have, and the one that its preset has.

In: the model of the pipeline (`_pipeline.model`) and the assumptions of `_pipeline.scale`, with the driver's costs as
they were once measured. Out: seconds a step and hours per 600 steps of each layout. Must not know: clocks, so that the
result is the same everywhere. Nothing here was measured on a GPU.

    disaggregated   samplers and learner ranks on GPUs of their own
    colocated       every GPU has a sampler and a rank, in turns
    lent            samplers on GPUs of their own, and one more on each of the learner's, which samples while nobody
                    learns (not built)

Assumed of a hand-over, in addition to `_pipeline.scale`:

- Bytes: a rank offloads bf16 weights and reference (3.55 GB each) and its part of the optimizer (master weights and two
  moments, 12 bytes a parameter over all ranks); gradients and buffers are dropped, and so are the sampler's weights,
  which the next push replaces. 25 GB/s in each direction for each GPU: PCIe 5.0 has 64, and 4 GPUs share the host's
  memory.
- vLLM needs 1 s to unmap its memory, 0.5 s to map the weights' and 1 s to map the cache's.
- Interrupted answers lose their keys and values: their tokens so far are prefilled again when the samplers wake, at
  40 % of the peak and with the FLOPs of the embedding and the head, which no such token needs: that pays for attention
  over 8,000 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks._pipeline.model import Costs, Pipeline
from benchmarks._pipeline.scale import (
    CACHE_BYTES,
    CAP,
    PARAMETERS,
    WEIGHTS_GB,
    Driver,
    batches,
    costs,
    engine_costs,
    mean,
)
from conf.schema import Config, OnWeightSync, Placement

STEPS, PROMPTS, RUN = 24, 128, 600  # steps that are averaged; prompts of a batch; steps of the recipe
PCIE_GB = 25.0  # a second, of each GPU in each direction
SLEEP_S, MAP_WEIGHTS_S, MAP_CACHE_S = 1.0, 0.5, 1.0
DRIVER = Driver(trajectory_s=48e-6, token_s=34e-9, balance_s=80e-9, spread_s=30e-9)  # on a 2 GHz core


@dataclass(frozen=True, slots=True)
class Layout:
    samplers: int
    ranks: int
    shared: int  # samplers on the learner's GPUs
    staleness: int
    on_weight_sync: OnWeightSync = OnWeightSync.keep

    @property
    def name(self) -> str:
        if not self.shared:
            return f"{self.samplers} + {self.ranks}, disaggregated"
        if self.shared == self.samplers:
            return f"{self.samplers}, colocated"
        return f"{self.samplers - self.shared} + {self.ranks}, lent"

    @property
    def gpus(self) -> int:
        return self.samplers + self.ranks - self.shared

    @classmethod
    def of(cls, conf: Config) -> Layout:
        """A run's."""
        workers, ranks = conf.rollout.workers, conf.learner.ranks
        shared = workers if conf.cluster.placement is Placement.colocated else 0
        return cls(workers, ranks, shared, conf.run.max_staleness, conf.rollout.on_weight_sync)


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


def with_hand_over(model: Costs, ranks: int, slower: float = 1.0) -> Costs:
    """slower: times as long as is assumed."""
    optimizer = WEIGHTS_GB + 12e-9 * PARAMETERS / ranks  # the reference, too
    return replace(
        model,
        to_learner_s=slower * (SLEEP_S + (WEIGHTS_GB + optimizer) / PCIE_GB),
        to_push_s=slower * (MAP_WEIGHTS_S + optimizer / PCIE_GB),
        to_samplers_s=slower * (MAP_CACHE_S + WEIGHTS_GB / PCIE_GB),
    )


def simulated(layout: Layout, steps: int = STEPS, seed: int = 1, slower: float = 1.0, host: bool = True) -> Simulated:
    """The first steps, which fill the queue, and the last ones, which empty it, are left out. slower: see
    `with_hand_over`; host: see `engine_costs`."""
    model = costs(layout.samplers, layout.ranks, "nccl", DRIVER, layout.shared)
    model = replace(model, engine=engine_costs(model.engine.load_s, host))
    skip = 2 * layout.staleness + 1
    pipeline = Pipeline(
        with_hand_over(model, layout.ranks, slower),
        layout.samplers,
        layout.staleness,
        float(CAP),
        layout.on_weight_sync,
        layout.shared,
    )
    found = pipeline.simulate(batches(PROMPTS, seed), skip + steps + layout.staleness)[skip : skip + steps]
    seconds = mean(found, "seconds")
    return Simulated(
        seconds,
        mean(found, "sampled") / layout.gpus / seconds,
        mean(found, "learning") * layout.ranks / layout.gpus / seconds,
        max(step.context for step in found) * CACHE_BYTES / 1e9,
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
