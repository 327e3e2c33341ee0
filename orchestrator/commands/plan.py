"""thinkless plan: memory, seconds, tokens and cost of a run before it is started, for every placement of its GPUs.

In: a configuration, and how many GPUs of which kind; or a run, whose metrics correct the assumptions. Out: text or JSON
on standard output. Must not know: Ray, torch, weights.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from conf.choices import Device
from conf.compose import from_file
from conf.schema import Config
from orchestrator.base.waiting import waiting
from orchestrator.plan import correction, hardware
from orchestrator.plan.correction import Correction
from orchestrator.plan.estimate import as_json, on_device, on_gpus, plan
from orchestrator.plan.formulas import assumptions
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.model_shape import ModelShape, model_shape
from orchestrator.plan.words import text
from orchestrator.report.damage import say_damage
from rollout.base.errors import BadInput

FAST, ANSWERS = 3_000, 300_000  # of a step: two seconds, three minutes


def command(conf: Config, options: Namespace, run: Path | None = None) -> None:
    """options.given: gpus, gpu, price, pairs, think_rate, think_tokens, short_tokens; options.json. run: the
    folder of the run that `conf` is of."""
    given: dict[str, str] = options.given
    gpus, pairs, price = _count(given, "gpus", 8192), _count(given, "pairs", 10**9), _number(given, "price", 0, 1e6)
    chosen, model, made = _hardware(conf, given, run), model_of(conf, run), None
    if run is not None:
        own = from_file(run / "config.yaml", [])
        say_damage(run, ("provenance.json", "metrics.jsonl"))
        kind = hardware.of_device(correction.devices(run)) or (chosen if on_gpus(own) else hardware.CPU)
        made = correction.corrected(own, correction.read(run, own), model, kind, assumptions(kind))
    if chosen.gpu is not on_gpus(conf):
        conf = on_device(conf, Device.gpu if chosen.gpu else Device.cpu)
    answers = conf.rollout.prompts_per_step * conf.rollout.group_size
    if answers > ANSWERS:
        raise BadInput(
            f"rollout.prompts_per_step={conf.rollout.prompts_per_step} x rollout.group_size={conf.rollout.group_size} "
            f"are {answers} answers a step: a plan simulates every one, at most {ANSWERS} of them; plan a smaller batch"
        )
    with waiting(f"simulating steps of {answers} answers") if answers > FAST else nullcontext():
        found = plan(conf, model, chosen, gpus, price, made, _lengths(conf, given, made), pairs)
    print(json.dumps(as_json(found), indent=1) if options.json else text(found))
    if found.best is None or any(one.findings for one in found.before):
        sys.exit(1)


def model_of(conf: Config, run: Path | None) -> ModelShape:
    """The configuration's model; of a run that made its own, that one."""
    if run is not None and (run / "model" / "config.json").is_file():
        return model_shape(replace(conf.model, path=str(run / "model")))
    return model_shape(conf.model)


def _hardware(conf: Config, given: Mapping[str, str], run: Path | None) -> Hardware:
    if "gpu" in given:
        return hardware.named(given["gpu"])
    if conf.rollout.device is not conf.learner.device:
        raise BadInput(
            f"rollout.device={conf.rollout.device.value} and learner.device={conf.learner.device.value}: a plan is of "
            "one kind for both: give gpu=<kind>, or gpu=cpu"
        )
    if not on_gpus(conf):
        return hardware.CPU
    recorded = hardware.of_device(correction.devices(run)) if run is not None else None
    return recorded or hardware.named(hardware.DEFAULT)


def _lengths(conf: Config, given: Mapping[str, str], made: Correction | None) -> Lengths:
    """Assumed, or as the run has measured them; what was given replaces either."""
    rate, think, short = (
        _number(given, key, 0, most) for key, most in (("think_rate", 1), ("think_tokens", 1e8), ("short_tokens", 1e8))
    )
    assumed = Lengths.of(conf)
    if made is not None:  # under the caps of what is planned
        seen = made.lengths
        assumed = replace(assumed, think=seen.think, short=seen.short, think_rate=seen.think_rate, learnt=seen.learnt)
    return assumed.with_means(think, short, assumed.think_rate if rate is None else rate)


def _count(given: Mapping[str, str], key: str, most: int) -> int | None:
    if key not in given:
        return None
    if not given[key].isdecimal() or not 1 <= int(given[key]) <= most:
        raise BadInput(f"{key}={given[key]} must be a whole number from 1 to {most}")
    return int(given[key])


def _number(given: Mapping[str, str], key: str, low: float, high: float) -> float | None:
    if key not in given:
        return None
    try:
        value = float(given[key])
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise BadInput(f"{key}={given[key]} must be a number from {low:g} to {high:g}")
    return value
