"""What a warm-up is evaluated on: questions that it is never trained on.

In: configuration, its pairs. Out: `Questions`: problems with gold answers, and the pairs that are left to train on.
Must not know: models, when the evaluation takes place.

Generated pairs have fresh generated questions (a level of few questions repeats some, `rollout.data.generated`). A
file's are those of validation.path, without any that is among the pairs as well; or else some of the pairs' own that
have a gold answer, which then are not trained on.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any

from conf.schema import Config
from orchestrator.base.waiting import waiting
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.held_out import hold_out, questions_of, sides_of
from rollout.data.pairs import Pairs
from rollout.data.problems import Problem, load_problems, validation_data
from rollout.data.stream import as_prompts
from rollout.data.tokens import generation_prompt
from rollout.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Questions:
    problems: list[Problem]
    pairs: Pairs  # to train on
    facts: dict[str, Any]  # where the questions are from, and counts, for warmup.json
    summary: str  # one line


def refuse_no_questions(conf: Config, pairs: Pairs) -> None:
    """BadInput, before anything is started, where an evaluation is configured and there is nothing to hold out."""
    if not conf.warmup or not conf.warmup.evaluate_every or pairs.rows is None:
        return
    if conf.validation.path is not None:
        _validation(conf)
    elif not any(pair.answer is not None for side in sides_of(pairs) for pair in side):
        raise _nothing(conf, "none of its rows has one")


def choose_questions(conf: Config, pairs: Pairs) -> Questions | None:
    """None where no evaluation is configured. Raises BadInput for one without questions."""
    warmup = conf.warmup
    if warmup is None or not warmup.evaluate_every:
        return None
    if pairs.rows is None:
        return _generated(conf, pairs)
    if conf.validation.path is not None:
        return _others(conf, pairs)
    with waiting("warm-up: holding questions out of the pairs"):
        held = hold_out(pairs, warmup.evaluate_questions, conf.evaluate.seed)
    if not held.problems:
        raise _nothing(conf, "at most a tenth of its rows that have one is held out, and there are fewer than ten")
    count = len(held.problems)
    facts = {"source": "pairs", "questions": count, "rows_held_out": held.rows}
    summary = f"{count} questions ({held.rows} rows of the pairs) are held out to evaluate it"
    return Questions(held.problems, held.pairs, facts, summary)


def prompts_of(questions: Questions, conf: Config, tokenizer: Any) -> tuple[list[Prompt], int]:
    """(prompts, number left out as longer than data.max_prompt_tokens). BadInput when none is left."""
    encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
    limit = conf.data.max_prompt_tokens
    prompts, too_long = as_prompts(questions.problems, encode, limit)
    if not prompts:
        raise BadInput(f"evaluating the warm-up: none of {too_long} questions fits into data.max_prompt_tokens={limit}")
    return prompts, too_long


def _generated(conf: Config, pairs: Pairs) -> Questions:
    assert conf.warmup is not None
    levels, _ = generated.mix(conf.warmup)
    each = max(1, conf.warmup.evaluate_questions // len(levels))
    problems = generated.problems_of_levels(conf.evaluate.seed, each, conf.warmup)
    facts = {"source": generated.source(conf.warmup), "questions": len(problems)}
    return Questions(problems, pairs, facts, f"{each} generated questions of each level evaluate it")


def _others(conf: Config, pairs: Pairs) -> Questions:
    assert conf.warmup is not None
    name = f"validation.path={conf.validation.path}"
    problems = _validation(conf)
    with waiting(f"warm-up: comparing {name} with the pairs"):
        texts = {problem.problem.strip() for problem in problems}
        learnt = {text for question in questions_of(pairs) if (text := question.strip()) in texts}
    others = [problem for problem in problems if problem.problem.strip() not in learnt]
    if not others:
        raise BadInput(f"{name}: all of its {len(problems)} questions are among the pairs of warmup.path: give others")
    count = min(len(others), conf.warmup.evaluate_questions)
    chosen = random.Random(f"warm-up/{conf.evaluate.seed}").sample(range(len(others)), count)
    known = len(problems) - len(others)
    facts = {"source": conf.validation.path, "questions": count, "left_out_as_trained_on": known}
    left = f"; {known} more are left out, since the pairs have them" if known else ""
    return Questions(
        [others[place] for place in sorted(chosen)], pairs, facts, f"{count} questions of {name} evaluate it{left}"
    )


def _validation(conf: Config) -> list[Problem]:
    with waiting(f"reading validation.path={conf.validation.path}"):
        return list(load_problems(validation_data(conf.validation, conf.data), "validation").problems)


def _nothing(conf: Config, why: str) -> BadInput:
    assert conf.warmup is not None
    return BadInput(
        f"warmup.evaluate_every={conf.warmup.evaluate_every} needs questions with answers: give "
        f"validation.path=<problems>, or warmup.path={conf.warmup.path} a column with gold answers "
        f"(warmup.answer_column={conf.warmup.answer_column}): {why}; warmup.evaluate_every=0 is no evaluation"
    )
