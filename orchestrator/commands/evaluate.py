"""thinkless evaluate: a model measured on held-out problems, free and with each mode forced.

In: a run (run.name) or a model (model.path) with data. Out: a table on standard output and a new file beside the model,
evaluate-<data>-<time>.json. Must not know: learners.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from conf.schema import Config
from conf.source import SourceConf
from orchestrator.base.errors import RunError
from orchestrator.base.files import write_json
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster, started
from orchestrator.cluster.object_store import sized
from orchestrator.cluster.parts import make_grader, make_sampler
from orchestrator.commands.preflight import located, refuse_no_gpu, refuse_unreadable
from orchestrator.commands.problems import load_all_problems
from orchestrator.tracking.summary import interval, over_the_mix
from orchestrator.training.evaluation import evaluate_modes, protocol
from orchestrator.training.unjudged import UnjudgedLog
from rollout.base.errors import BadInput
from rollout.data.stream import as_prompts
from rollout.data.tokens import check_prompt, control_tokens, generation_prompt, load_tokenizer
from rollout.request import SamplingParams


def without_hold_out(conf: Config) -> Config:
    """`conf` that evaluates all of data.path: nothing is trained on it, so no rows need to be held out."""
    data = conf.data
    if data.path is None or conf.validation.path is not None:
        return conf
    source = {field.name: getattr(data, field.name) for field in fields(SourceConf)}
    return replace(conf, validation=replace(conf.validation, **source))


def command(conf: Config, target: Path | None = None) -> None:
    """target: the folder to write to; None: the model's. Where that cannot be written to: the current one."""
    if conf.model.path is None:
        raise BadInput("nothing to evaluate: give run.name=<run>, or model.path=<folder> with data.path=<problems>")
    enable(conf.tracker.console)
    refuse_no_gpu(conf, "evaluate")
    problems = load_all_problems(conf)
    refuse_unreadable(conf, "evaluate")
    conf = located(conf)
    path = conf.model.path
    assert path is not None
    tokenizer = load_tokenizer(path, conf.model)
    control = control_tokens(tokenizer, conf.model, path)
    check_prompt(tokenizer, conf.model)
    encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
    prompts, too_long = as_prompts(problems.evaluation, encode, conf.data.max_prompt_tokens)
    if not prompts:
        raise BadInput(f"none of {too_long} problems fits into data.max_prompt_tokens={conf.data.max_prompt_tokens}")
    length = conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens
    responses = len(prompts) * conf.evaluate.samples
    with Cluster(sized(conf, evaluated=responses, training=False)) as cluster:
        sampling = SamplingParams(conf.evaluate.temperature, conf.evaluate.top_p, length)
        sampler = make_sampler(cluster, conf, path, control, sampling)
        grader = make_grader(cluster, conf, path, control)
        try:
            with waiting("loading the vLLM engines"):
                started([*sampler.workers, *grader.actors], "ready", conf.rollout.start_timeout_s)
        except RunError as error:
            raise RunError(f"model.path={path}: {error}") from error
        unjudged = UnjudgedLog(conf.reward, lambda line: print(line, file=sys.stderr, flush=True))
        measured = evaluate_modes(
            "evaluation", sampler, grader, prompts, conf.evaluate, length, unjudged, 0,
            conf.tracker.console,
        )  # fmt: skip
    if unjudged.first and not any(cell["n"] for cells in measured.values() for cell in cells.values()):
        raise RunError(f"no answer has a verdict, so there is nothing to report: {unjudged.first}")
    found = {"model": path, "too_long": too_long, **protocol(conf, prompts), "ways": measured}
    found["overall"] = overall(found)
    beside = target or Path(path).expanduser()
    target = free_name(beside if os.access(beside, os.W_OK) else Path.cwd(), found["data"]["name"])
    write_json(target, found)
    print(*heading(found), table(found), f"written to {target}", sep="\n")


def overall(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{way: figures over all levels}, each level by its share of the mix; counts are sums.

    `interval`: 95 % of the accuracy (Wilson), from the effective number of problems, 1 / sum(share^2 / problems).
    """
    result = {}
    for way, cells in found["ways"].items():
        mix = over_the_mix(cells, found["levels"], [found["weights"][level] for level in found["levels"]])
        counts = {key: sum(cell[key] for cell in cells.values()) for key in ("n", "problems", "unjudged")}
        result[way] = mix | {"interval": interval(mix)} | counts
    return result


def free_name(folder: Path, data: str) -> Path:
    """A new file for each measurement, by data and time: none is ever written over."""
    name = f"evaluate-{re.sub(r'[^0-9A-Za-z.-]+', '-', data)}-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    path, again = folder / f"{name}.json", 1
    while path.exists():
        again += 1
        path = folder / f"{name}-{again}.json"
    return path


def heading(found: Mapping[str, Any]) -> list[str]:
    """What was measured, and how."""
    data, asked = found["data"], sum(found["questions"].values())
    named = {"path": ", ".join(map(str, data["path"]))} if isinstance(data["path"], list) else {}
    at = ", ".join(f"{k} {v}" for k in ("path", "subset", "split", "revision") if (v := (data | named).get(k)))
    held = ", held out of it" if data["held_out"] else ""
    if found["questions_per_level"] is None and asked + found["too_long"] == found["limit"]:
        held += f" (no more than evaluate.questions={found['limit']})"
    left = f", {found['too_long']} more were left out as too long" if found["too_long"] else ""
    return [
        f"model: {found['model']}",
        f"data: {data['name']}{f' ({at})' if at else ''}: {asked} problems{held}, sha256 {data['sha256'][:12]}{left}",
        f"sampling: temperature {found['temperature']:g}, top_p {found['top_p']:g}, {found['samples']} to a problem, "
        f"at most {found['max_response_tokens']} tokens, seed {found['seed']}",
    ]


def table(found: Mapping[str, Any]) -> str:
    """Levels, then all of them together, in each mode."""
    rows = [
        (level, way, cells[level], interval(cells[level]))
        for level in (found["levels"] if len(found["levels"]) > 1 else ())
        for way, cells in found["ways"].items()
    ]
    rows += [("all", way, figures, figures["interval"]) for way, figures in found["overall"].items()]
    wide = max(8, *(len(level) for level, *_ in rows))
    lines = [
        f"{'level':>{wide}} {'mode':>6} {'problems':>9} {'answers':>8} {'accuracy':>9} {'95 %':>13} {'reward':>7} "
        f"{'thinks':>7} {'tokens':>8}"
    ]
    for level, way, f, spread in rows:
        within = f"{spread[0]:.3f}..{spread[1]:.3f}" if spread else "–"
        lines.append(
            f"{level:>{wide}} {way:>6} {f['problems']:>9} {f['n']:>8} {_shown(f['accuracy'], '.3f'):>9} {within:>13} "
            f"{_shown(f['reward'], '.3f'):>7} {_shown(f['think_rate'], '.2f'):>7} {_shown(f['tokens'], '.1f'):>8}"
        )
    if len(found["levels"]) > 1:
        mix = ", ".join(f"{level}: {100 * found['weights'][level]:.3g} %" for level in found["levels"])
        lines.append(f"all: levels by their share ({mix})")
    lines.append("95 %: Wilson interval of the accuracy over problems")
    if unjudged := sum(figures["unjudged"] for figures in found["overall"].values()):
        lines.append(f"{unjudged} answers are left out: they have no verdict")
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
