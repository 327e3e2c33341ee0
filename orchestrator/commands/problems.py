"""The problems of a run: for training, for validation, for the final table.

In: configuration. Out: `Problems`, read and checked before anything is started. Must not know: tokenizers, Ray.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from conf.schema import Config, DataConf
from orchestrator.base.waiting import waiting
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.problems import LoadedProblems, Problem, load_problems, split_validation, validation_data


@dataclass(frozen=True, slots=True)
class Problems:
    """training None: generated without end. evaluation: for the final table (generated: fresh questions per level)."""

    training: list[Problem] | None
    validation: list[Problem]
    evaluation: list[Problem]
    data_hash: str
    notes: tuple[str, ...]


def refuse_foreign_warmup(conf: Config) -> None:
    """BadInput for a warm-up on a generated task before training on something else: the model would not even try it.

    Problems of one's own need pairs of one's own (an experiment's `warmup=arithmetic` goes with its generated task), or
    a model that answers them in both modes already.
    """
    if conf.data.path is not None and conf.warmup is not None and conf.warmup.path is None:
        raise BadInput(
            f"data.path={conf.data.path}: the warm-up would teach generated arithmetic, not these problems: give "
            "warmup.path=<pairs> (problem, think, short), or warmup=none model.path=<a warmed-up model>"
        )
    if conf.warmup is not None and conf.warmup.path is conf.data.path is None and conf.warmup.task != conf.data.task:
        raise BadInput(
            f"data.task={conf.data.task.value}: the warm-up would teach warmup.task={conf.warmup.task.value}: choose "
            f"warmup={conf.data.task.value} with data={conf.data.task.value}"
        )


def _load(conf: DataConf, key: str) -> LoadedProblems:
    with waiting(f"reading {key}.path={conf.path}"):
        return load_problems(conf, key)


def load_all_problems(conf: Config) -> Problems:
    """Training, validation and evaluation problems; raises BadInput before anything is started."""
    data, validation, evaluate = conf.data, conf.validation, conf.evaluate
    if data.path is None:
        seed = evaluate.seed
        held_out = [generated.problem_at(seed, i, data, "validation") for i in range(validation.size)]
        fresh = generated.problems_of_levels(seed, evaluate.questions, data)
        return Problems(None, held_out, fresh, generated.conf_hash(data), ())
    loaded = _load(data, "data")
    notes = [loaded.summary()]
    training = list(loaded.problems)
    if validation.path is not None:
        other = _load(validation_data(validation, data), "validation")
        notes.append(other.summary())
        held_out = list(other.problems)
        evaluation = held_out[: evaluate.questions]
        if len(held_out) > validation.size:
            _, held_out = split_validation(held_out, validation.size, evaluate.seed)
    else:
        training, held_out = split_validation(training, validation.size, evaluate.seed)
        if repeated := len(loaded.problems) - len(training) - len(held_out):
            notes.append(f"{repeated} training problems left out: they repeat a held-out question (validation.size)")
        evaluation = held_out[: evaluate.questions]
    return Problems(training, held_out, evaluation, loaded.sha256, tuple(notes))


def without_tokens(problems: Problems, tokens: Collection[str], share: float) -> Problems:
    """`problems` without those whose text or answer holds one of the model's control or special tokens: a prompt would
    end, or choose its mode, in the middle of the question.

    Raises BadInput where they are more than `share` of a list, data.max_unusable, or no problem is left to train on.
    """
    held = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    notes = list(problems.notes)

    def token(problem: Problem) -> str | None:
        answers = [problem.answer] if isinstance(problem.answer, str) else problem.answer
        return next((found[0] for text in (problem.problem, *answers) if (found := held.search(text))), None)

    def kept(name: str, given: list[Problem]) -> list[Problem]:
        found = [(problem, here) for problem in given if (here := token(problem)) is not None]
        if not found:
            return given
        first, here = found[0]
        said = (
            f"{len(found)} of {len(given)} {name} problems hold a token of the model (the first, {here}: {first.uid})"
        )
        if len(found) > share * len(given):
            raise BadInput(f"{said}, more than data.max_unusable={share:g}; clean the file")
        notes.append(f"{said} and are left out")
        bad = {problem.uid for problem, _ in found}
        return [problem for problem in given if problem.uid not in bad]

    training = None if problems.training is None else kept("training", problems.training)
    validation, evaluation = kept("validation", problems.validation), kept("evaluation", problems.evaluation)
    return replace(
        problems, training=training, validation=validation, evaluation=evaluation, notes=tuple(dict.fromkeys(notes))
    )
