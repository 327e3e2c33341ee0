"""thinkless evaluate: a model measured on held-out problems, free and with each mode forced.

In: a run (run.name) or a model (model.path) with data. Out: tables on standard output; a folder beside the model,
evaluate-<data>-<hash>, with every answer (answers.jsonl), all figures (evaluation.json), tables (evaluation.md) and a
page (evaluation.html).
Must not know: learners, how figures are computed.

The folder's name says what determines the answers, so the same command goes on where an earlier one stopped, and
measures nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.masking import masked
from conf.schema import Config
from conf.source import SourceConf
from orchestrator.base.errors import RunError
from orchestrator.base.files import write_whole
from orchestrator.base.journal import Journal
from orchestrator.base.lock import Taken, locked
from orchestrator.base.record import write_record
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster, started
from orchestrator.cluster.object_store import sized
from orchestrator.cluster.parts import make_grader, make_sampler
from orchestrator.commands.ready import ready
from orchestrator.commands.warmup import kept_bound
from orchestrator.evaluation.answers import Answer
from orchestrator.evaluation.benchmarks import with_benchmark
from orchestrator.evaluation.collect import Collector
from orchestrator.evaluation.page import render
from orchestrator.evaluation.results import grids, results
from orchestrator.evaluation.words import no_dial, tables
from orchestrator.tracking.console import progress
from orchestrator.training.evaluation import level_of, protocol
from orchestrator.training.unjudged import UnjudgedLog
from rollout.base.errors import BadInput
from rollout.data.stream import as_prompts
from rollout.data.tokens import check_prompt, control_tokens, generation_prompt, load_tokenizer
from rollout.mode import modes_of
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.steering import Steering, stored_dial


def without_hold_out(conf: Config) -> Config:
    """`conf` that evaluates all of data.path: nothing is trained on it, so no rows need to be held out."""
    data = conf.data
    if data.path is None or conf.validation.path is not None:
        return conf
    source = {field.name: getattr(data, field.name) for field in fields(SourceConf)}
    return replace(conf, validation=replace(conf.validation, **source))


def command(conf: Config, target: Path | None = None, dial: bool = False) -> None:
    """target: the folder to write into; None: the model's. Where that cannot be written to: the current one.
    dial: print the whole curve."""
    if conf.model.path is None:
        raise BadInput("nothing to evaluate: give run.name=<run>, or model.path=<folder> with data.path=<problems>")
    enable(conf.tracker.console)
    at_hand = ready(without_hold_out(with_benchmark(conf)) if conf.evaluate.benchmark else conf, "evaluate")
    conf, problems = at_hand.conf, at_hand.problems
    conf = replace(conf, evaluate=replace(conf.evaluate, dial=_dial(conf, at_hand.model)))
    path = conf.model.path
    assert path is not None and problems is not None
    print(*problems.notes, sep="\n", end="\n" if problems.notes else "", file=sys.stderr)
    tokenizer = load_tokenizer(path, conf.model)
    check_prompt(tokenizer, conf.model)
    after = f"\n{conf.evaluate.instruction}" if conf.evaluate.instruction else ""

    def encode(problem: str) -> np.ndarray:
        return generation_prompt(tokenizer, problem + after, conf.model)

    prompts, too_long = as_prompts(problems.evaluation, encode, conf.data.max_prompt_tokens)
    if not prompts:
        raise BadInput(f"none of {too_long} problems fits into data.max_prompt_tokens={conf.data.max_prompt_tokens}")
    found = {"model": path, "too_long": too_long, "instruction": conf.evaluate.instruction, **protocol(conf, prompts)}
    found |= {"bias": conf.evaluate.dial} if conf.evaluate.dial else {}
    longest = kept_bound(path)
    found |= {} if longest is None else {"longest_short_answer": longest}
    budget = conf.evaluate.thinking_budget
    found |= {} if budget is None else {"thinking_budget": budget}
    beside = target or Path(path).expanduser()
    folder = (beside if os.access(beside, os.W_OK) else Path.cwd()) / folder_name(conf, found)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / ".lock"):
            write_record(folder / "problems.json", levels := {prompt.uid: level_of(prompt) for prompt in prompts})
            answers, modes = _answers(conf, prompts, tokenizer, folder, longest), modes_of(conf.model.modes)
            whole_p = conf.evaluate.top_p == 1
            ways = grids(answers, levels, conf.evaluate.samples, found["weights"], modes, whole_p)
    except Taken as error:
        raise BadInput(f"{folder} is being written to by {error}: wait for it") from error
    found |= results(ways, levels, conf.evaluate)
    write_record(folder / "evaluation.json", masked(found))
    about, whole = heading(found), list(tables(found, conf.evaluate, whole_dial=True))
    lines = "  \n".join(about)
    write_whole(folder / "evaluation.md", "\n".join([f"# Evaluation\n\n{lines}\n", *(one.markdown() for one in whole)]))
    write_whole(folder / "evaluation.html", render(found, about, whole))
    shown = [one.text() for one in (whole if dial else tables(found, conf.evaluate))]
    if found["dial"] is None and (dial or conf.evaluate.token_budget is not None):
        shown.append(no_dial(conf.evaluate))
    print(*about, *(f"\n{text}" for text in shown), f"\nwritten to {folder}", sep="\n")


def _dial(conf: Config, config: Mapping[str, Any] | None) -> float:
    """evaluate.dial, or what is stored with the model. config: its config.json."""
    return stored_dial(config or {}) if conf.evaluate.dial is None else conf.evaluate.dial


def _answers(conf: Config, prompts: list[Prompt], tokenizer: Any, folder: Path, longest: int | None) -> list[Answer]:
    """All of them; those that an earlier process has written are taken from there. longest: see `Collector`."""
    path, evaluate = conf.model.path, conf.evaluate
    assert path is not None
    journal = Journal(folder / "answers.jsonl", lambda line, place: Answer.of(dict(line)), by="way")
    total, before = len(prompts) * evaluate.samples * (len(conf.model.modes) + 1), len(journal.kept)
    try:
        if before < total:
            if before:
                print(f"{before} of {total} answers are there already: goes on in {folder}", file=sys.stderr)
            _sample(conf, prompts, tokenizer, journal, total, longest)
    except KeyboardInterrupt:
        print("every answer that is there is kept: the same command goes on from there", file=sys.stderr, flush=True)
        raise
    finally:
        journal.close()
    return list(journal.kept.values())


def _sample(
    conf: Config, prompts: list[Prompt], tokenizer: Any, journal: Journal, total: int, longest: int | None
) -> None:
    path, before = conf.model.path, len(journal.kept)
    assert path is not None
    control = control_tokens(tokenizer, conf.model, path)
    length = conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens
    with Cluster(sized(conf, evaluated=total - before, training=False)) as cluster:
        sampling = SamplingParams(conf.evaluate.temperature, conf.evaluate.top_p, length)
        dial, budget = conf.evaluate.dial or 0.0, conf.evaluate.thinking_budget
        steering = Steering(control, dial, budget) if dial or budget is not None else None
        sampler = make_sampler(cluster, conf, path, control, sampling, steering=steering)
        rules = [conf.reward.strict, not conf.reward.strict]
        graders = (
            {"own": make_grader(cluster, conf, path, control)}
            if conf.reward.function is not None
            else {
                "strict" if strict else "lenient": make_grader(
                    cluster, replace(conf, reward=replace(conf.reward, strict=strict)), path, control
                )
                for strict in rules
            }
        )
        try:
            with waiting("loading the vLLM engines"):
                actors = [actor for grader in graders.values() for actor in grader.actors]
                started([*sampler.workers, *actors], "ready", conf.rollout.start_timeout_s)
        except RunError as error:
            raise RunError(f"model.path={path}: {error}") from error
        collector = Collector(conf, sampler, graders, tokenizer, control, longest)
        with progress(total, "evaluation", conf.tracker.console, start=before) as bar:
            collector.collect(prompts, journal, bar.advance)
    unjudged = UnjudgedLog(conf.reward, lambda line: print(line, file=sys.stderr, flush=True))
    for way, verdicts in collector.failed.items():
        unjudged.tell(f"evaluation, {way}", 0, verdicts, len(prompts) * conf.evaluate.samples)
    if unjudged.first and all(answer.reward is None for answer in journal.kept.values()):
        raise RunError(f"no answer has a verdict, so there is nothing to report: {unjudged.first}")


def folder_name(conf: Config, found: Mapping[str, Any]) -> str:
    """By the data's name and a hash of everything that determines the answers and their grades."""
    chosen = {
        "protocol": {key: value for key, value in found.items() if key not in ("weights", "limit")},
        "files": _files(Path(found["model"]).expanduser()),
        "model": asdict(conf.model),
        "reward": asdict(conf.reward) | {"workers": 0, "processes": 0},
        "seed": conf.run.seed,
        "dtype": [conf.rollout.device.value],
    }
    content = json.dumps(chosen, sort_keys=True, default=str).encode()
    data = re.sub(r"[^0-9A-Za-z.-]+", "-", found["data"]["name"])
    return f"evaluate-{data}-{hashlib.sha256(content).hexdigest()[:8]}"


def _files(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a model's files; a hub model has its revision."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json", ".jinja"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


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
        *([f"thinking is closed after {found['thinking_budget']} tokens"] if "thinking_budget" in found else []),
        *([f"dial: {found['bias']:+g} on the think token's logit"] if found.get("bias") else []),
        f"prompt: the question{' and: ' + found['instruction'] if found['instruction'] else ' alone, as in training'}",
    ]
