"""All that a command reads and checks before it starts anything.

In: a configuration that has passed `conf.check`. Out: the same with absolute folders, its problems, the model's
config.json; or BadInput. Must not know: Ray, torch, what a command does then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import Config, WarmupConf
from orchestrator.commands.fits import refuse_too_large
from orchestrator.commands.preflight import located, refuse_no_gpu, refuse_unreadable
from orchestrator.commands.problems import Problems, load_all_problems, refuse_foreign_warmup, without_tokens
from orchestrator.training.run_root import root
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.stream import shard_of

SHORTEST = 100  # by characters


@dataclass(frozen=True, slots=True)
class Ready:
    conf: Config
    problems: Problems | None  # None: the command needs none
    model: dict[str, Any] | None  # its config.json; None where there is none


def ready(conf: Config, command: str, folder: Path | None = None) -> Ready:
    """command: "train", "warmup" or "evaluate"; folder: of the run that goes on."""
    refuse_no_gpu(conf, command)
    _refuse_files(conf)
    problems = None if command == "warmup" else load_all_problems(conf)
    if command != "evaluate" and folder is None:
        refuse_foreign_warmup(conf)
    questions = shortest(conf, problems) if problems is not None and command == "train" else []
    model = refuse_unreadable(conf, command, folder, questions)
    if problems is not None and model.tokens:
        problems = without_tokens(problems, model.tokens, conf.data.max_unusable)
    refuse_too_large(conf, command, model.config, _evaluated(conf, problems))
    return Ready(located(conf), problems, model.config)


def _refuse_files(conf: Config) -> None:
    """BadInput for a folder to write into that is a file, or would lie in one."""
    warmup = conf.warmup or WarmupConf()
    for key, name in {"run.root": conf.run.root, "warmup.cache": warmup.cache, "warmup.out": warmup.out}.items():
        if name is not None:
            folder = root(name)
            there = next(path for path in (folder, *folder.parents) if path.exists())
            if not there.is_dir():
                raise BadInput(f"{key}={name}: {there} is no folder; give one, or a path in one")


def shortest(conf: Config, problems: Problems) -> list[str]:
    """Of the questions to train on, the texts of a few that are sure to hold the one with the fewest tokens, or nearly.
    Raises BadInput where there is none."""
    if problems.training is None:
        return [generated.problem_at(0, 0, conf.data).problem]
    texts = (problem.problem for problem in shard_of(problems.training, conf.data))
    return heapq.nsmallest(SHORTEST, texts, key=len)


def _evaluated(conf: Config, problems: Problems | None) -> int:
    """Answers of the largest validation or evaluation."""
    if problems is None:
        return conf.warmup.evaluate_questions if conf.warmup and conf.warmup.evaluate_every else 0
    validation, evaluation = len(problems.validation), len(problems.evaluation)
    return max(validation * conf.validation.samples, evaluation * conf.evaluate.samples)
