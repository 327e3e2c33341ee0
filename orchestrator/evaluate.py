"""thinkless evaluate: a model measured on held-out problems, free and with each mode forced.

In: a run (run.name) or a model (model.path) with data. Out: a table on standard output and evaluate.json beside the
model. Must not know: learners.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.schema import Config
from conf.shell import command_line
from orchestrator import folder as run_folders
from orchestrator.cluster import Cluster, started
from orchestrator.door import refuse_unreadable
from orchestrator.errors import RunError
from orchestrator.problems import load_all_problems
from orchestrator.validate import evaluate_modes
from reward.judge import Judge
from reward.panel import Panel
from rollout.errors import BadInput
from rollout.sampler import Sampler
from rollout.share import Sampling
from rollout.stream import as_prompts
from rollout.tokens import control_tokens, generation_prompt, load_tokenizer
from rollout.worker import RolloutWorker


def main(arguments: list[str]) -> None:
    """With run.name=<run>: that run's configuration and final model, further overrides on top. Else: Hydra as usual."""
    from conf.check import check
    from conf.compose import from_file, run_command

    name = next((a.partition("=")[2] for a in arguments if a.startswith("run.name=")), None)
    if name is None:
        run_command("evaluate", command, arguments)
        return
    folder = run_folders.find(name, arguments)
    conf = from_file(folder / "config.yaml", [a for a in arguments if not a.startswith("run.name=")])
    check(conf, "evaluate")
    if not (folder / "model" / "config.json").is_file():
        raise BadInput(
            f"{folder} holds no final model: give model.path=<folder>, or finish the run: "
            + command_line("train", f"resume={folder}")
        )
    command(replace(conf, model=replace(conf.model, path=str(folder / "model"))), folder / "evaluate.json")


def command(conf: Config, target: Path | None = None) -> None:
    if conf.model.path is None:
        raise BadInput("nothing to evaluate: give run.name=<run>, or model.path=<folder> with data.path=<problems>")
    problems = load_all_problems(conf)
    refuse_unreadable(conf)
    path = conf.model.path
    tokenizer = load_tokenizer(path, conf.model)
    control = control_tokens(tokenizer, conf.model, path)
    encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
    prompts, too_long = as_prompts(problems.evaluation, encode, conf.data.max_prompt_tokens)
    length = conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens
    with Cluster(conf.cluster) as cluster:
        arguments = [conf.rollout, conf.model, path, control, conf.run.seed]
        workers = cluster.rollout_workers(conf.rollout, RolloutWorker, arguments)
        actors = cluster.reward_actors(conf.reward, Judge, [conf.reward, path, control, conf.model])
        try:
            started([*workers, *actors], "ready", conf.rollout.start_timeout_s)
        except RunError as error:
            raise RunError(f"model.path={path}: {error}") from error
        sampler = Sampler(workers, Sampling(conf.evaluate.temperature, conf.evaluate.top_p, length))
        measured = evaluate_modes(
            "evaluation", sampler, Panel(actors, conf.reward), prompts, conf.evaluate, length, conf.tracker.console
        )
    target = target or (Path(path) / "evaluate.json" if Path(path).is_dir() else Path("evaluate.json"))
    target.write_text(json.dumps({"model": path, "too_long": too_long, "ways": measured}, indent=1))
    print(table(measured), f"written to {target}", sep="\n")


def table(measured: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = [f"{'level':>8} {'mode':>6} {'n':>6} {'accuracy':>9} {'reward':>7} {'think':>6} {'tokens':>8}"]
    for level in measured["free"]:
        for way, levels in measured.items():
            f = levels[level]
            lines.append(
                f"{level:>8} {way:>6} {f['n']:>6} {f['accuracy']:>9.3f} {f['reward']:>7.3f} {f['think_rate']:>6.2f} "
                f"{f['tokens']:>8.1f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    from orchestrator.cli import module_main

    module_main("evaluate")
