"""A run's estimate for every placement of its GPUs, and the one to take.

In: a configuration, the number and kind of GPUs, what a run's metrics corrected. Out: a `Plan`. Must not know: how it
is printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from conf.choices import Device
from conf.schema import Config
from orchestrator.plan.correction import Correction
from orchestrator.plan.disk import disk
from orchestrator.plan.formulas import Assumptions, assumptions
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.layouts import Layout, layouts
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.memory import Memory, memory
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.pipeline import Simulated, simulate, validation_seconds
from orchestrator.plan.stages import Stage, stages
from rollout.base.errors import BadInput


@dataclass(frozen=True, slots=True)
class Estimate:
    layout: Layout
    step: Simulated
    memory: Memory
    validation: float  # seconds of one
    hours: float  # of all steps and validations
    tokens: float  # response tokens of the run
    cost: float  # US dollars
    overrides: list[str]  # that make it of the configuration; none: it is the configuration's own


@dataclass(frozen=True, slots=True)
class Plan:
    conf: Config
    model: ModelShape
    gpu: Hardware
    gpus: int
    price: float
    lengths: Lengths
    given: Assumptions
    estimates: tuple[Estimate, ...]  # the configuration's own first, if it has so many GPUs; then the fastest first
    correction: Correction | None
    before: tuple[Stage, ...]  # what the run begins with
    disk: dict[str, float]  # bytes

    @property
    def own(self) -> Estimate | None:
        """The configuration as it is."""
        return next((one for one in self.estimates if not one.overrides), None)

    @property
    def best(self) -> Estimate | None:
        """The fastest that fits, with no more batches ahead than the configuration allows; None: none fits."""
        allowed = self.conf.run.max_staleness
        fit = [one for one in self.estimates if one.memory.fits and one.layout.staleness <= allowed]
        return min(fit, key=lambda one: one.step.seconds, default=None)


def plan(
    conf: Config,
    model: ModelShape,
    gpu: Hardware,
    gpus: int | None = None,
    price: float | None = None,
    correction: Correction | None = None,
    lengths: Lengths | None = None,
    pairs: int | None = None,
) -> Plan:
    """gpus: None: as many as the configuration takes; price: US dollars an hour for each, None: `gpu`'s; pairs:
    questions of the warm-up, None: as its file or preset has. Raises BadInput where no placement of so many GPUs is
    possible."""
    own = Layout.of(conf)
    count = own.gpus if gpus is None else gpus
    each = gpu.price if price is None else price
    lengths = lengths or (correction.lengths if correction else Lengths.of(conf))
    given = correction.given if correction else assumptions(gpu)
    found = layouts(conf, count)
    if not gpu.gpu:  # processes have no GPUs to share or to divide
        found = [one for one in found if not one.shared and (gpus is not None or one.samplers == own.samplers)]
    if not found:
        raise BadInput(
            f"gpus={count}: no placement of them is possible with rollout.tensor_parallel="
            f"{conf.rollout.tensor_parallel} and learner.sequence_parallel={conf.learner.sequence_parallel}"
        )
    made = [_estimate(one, conf, model, gpu, lengths, given, each) for one in found]
    made.sort(key=lambda one: (bool(one.overrides), one.step.seconds))
    found_first = next((one for one in made if one.memory.fits), made[0])
    before = stages(conf, model, gpu, found_first.layout.ranks, lengths, given, pairs)
    whole = disk(conf, model, before)
    return Plan(conf, model, gpu, count, each, lengths, given, tuple(made), correction, before, whole)


def _estimate(
    layout: Layout, conf: Config, model: ModelShape, gpu: Hardware, lengths: Lengths, given: Assumptions, price: float
) -> Estimate:
    step = simulate(layout, conf, model, gpu, lengths, given)
    validation = validation_seconds(layout, conf, model, gpu, lengths, given)
    steps, every = conf.run.steps, conf.evaluate.every
    validations = 1 + steps // every if every and conf.validation.size else 0
    hours = (steps * step.seconds + validations * validation) / 3600
    return Estimate(
        layout,
        step,
        memory(layout.applied(conf), model, gpu, step.context),
        validation,
        hours,
        steps * step.tokens,
        hours * layout.gpus * price,
        layout.overrides(conf),
    )


def on_gpus(conf: Config) -> bool:
    return Device.gpu in (conf.rollout.device, conf.learner.device)


def on_device(conf: Config, device: Device) -> Config:
    """`conf` with both parts on whole GPUs, or on the CPU: what `gpu=h100` means for a configuration of a CPU."""
    return replace(
        conf,
        rollout=replace(conf.rollout, device=device, num_gpus=1.0),
        learner=replace(conf.learner, device=device, num_gpus=1.0),
    )


def as_json(found: Plan) -> dict[str, Any]:
    """What --json prints: seconds, bytes, US dollars."""
    best = found.best
    return {
        "model": {"name": found.model.name, "source": found.model.source, "parameters": found.model.parameters,
                  "kv_bytes_per_token": found.model.kv_bytes, "weight_bytes": found.model.weight_bytes},
        "gpu": asdict(found.gpu), "gpus": found.gpus, "price_per_hour": found.price,
        "steps": found.conf.run.steps,
        "lengths": asdict(found.lengths),
        "assumptions": asdict(found.given),
        "before": [
            {"stage": one.name, "what": one.what, "gpus": one.gpus, "hours": one.hours, "tokens": one.tokens,
             "cost": one.hours * one.gpus * found.price, "findings": list(one.findings)}
            for one in found.before
        ],
        "disk": found.disk,
        "corrected": list(found.correction.said) if found.correction else [],
        "recommended": None if best is None else found.estimates.index(best),
        "placements": [
            {
                "name": one.layout.name, "max_staleness": one.layout.staleness, "overrides": one.overrides,
                "seconds": asdict(one.step), "validation_s": one.validation, "hours": one.hours,
                "response_tokens": one.tokens, "cost": one.cost, "fits": one.memory.fits,
                "findings": list(one.memory.findings), "notes": list(one.memory.notes),
                "cache_tokens": one.memory.cache_tokens, "host_bytes": one.memory.host,
                "memory": [
                    {"gpu": gpu.kind, "limit": gpu.limit,
                     "phases": [{"phase": p.name, "total": p.total, "items": p.items} for p in gpu.phases]}
                    for gpu in one.memory.gpus
                ],
            }
            for one in found.estimates
        ],
    }  # fmt: skip
