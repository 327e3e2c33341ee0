"""Laws of the generated task with long answers: answers right, lines consistent, lengths, levels, grading."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.check import check
from conf.choices import Task
from conf.compose import run_command
from conf.errors import BadConfig
from conf.schema import Config, DataConf, ModelConf, RegisterConf, WarmupConf
from orchestrator.commands.problems import load_all_problems, refuse_foreign_warmup
from orchestrator.training.evaluation import protocol
from reward.grade import find_answer
from reward.maths.equivalence import equivalent
from reward.verdict import Outcome
from rollout.base.errors import BadInput
from rollout.data import arithmetic, generated
from rollout.data.pairs import load_pairs
from rollout.data.register import (
    TABLE,
    problem_at,
    problems_of_level,
    question,
    question_at,
    short_answer,
    think_answer,
)
from rollout.data.stream import as_prompts
from rollout.data.tokens import build_character_tokenizer, control_tokens, load_tokenizer, training_response
from rollout.mode import Mode
from rollout.trajectory import Finish

CONF = RegisterConf()


def composed(*overrides: str) -> Config:
    found: list[Config] = []
    run_command("train", found.append, ["experiment=long", *overrides])
    return found[0]


@given(level=st.integers(0, 9), lines=st.integers(10, 52), seed=st.integers())
def test_the_answer_is_the_last_digit_after_k_moves(level: int, lines: int, seed: int) -> None:
    """Against the sequence that the register emits: digit n + 5 follows from digits n and n + 4."""
    problem, written = question(level, replace(CONF, lines=lines), random.Random(seed))
    found = re.fullmatch(r"([0-4]{5}):(\d)=", problem)
    assert found and int(found[2]) == level
    emitted = [int(digit) for digit in found[1]]
    for n in range(level):
        emitted.append(int(TABLE[emitted[n]][emitted[n + 4]]))
    assert short_answer(written) == rf"\boxed{{{emitted[-1]}}}"
    assert len(written) == lines
    for n, line in enumerate(written):
        moved = min(n, level)
        assert line[1:] == f"{level - moved}" + "".join(map(str, emitted[moved : moved + 5]))
    assert len({line[0] for line in written}) == lines  # labels


@given(index=st.integers(0, 1000), effort=st.sampled_from([1 / 3, 1 / 2, 2 / 3]))
def test_a_mode_between_writes_its_share_of_the_lines_and_the_same_answer(index: int, effort: float) -> None:
    conf = WarmupConf(task=Task.register)
    problem, short, between, whole = generated.answers_at(0, index, conf, "</think>", [effort, 1.0])
    assert problem == question_at(0, index, CONF, "warmup")[1]
    (some, answer), (every, same) = between.split("</think>"), whole.split("</think>")
    assert every.startswith(some) and some.count(";") == round(effort * CONF.lines) < every.count(";") == CONF.lines
    assert short == answer == same


def test_the_table_forgets_no_digit() -> None:
    """Rows and columns are permutations, so that a move is one of the registers."""
    assert all(sorted(row) == list("01234") for row in TABLE)
    assert all(sorted(column) == list("01234") for column in zip(*TABLE, strict=True))


def test_long_answers_have_300_to_600_tokens_and_short_ones_5(tmp_path: object) -> None:
    build_character_tokenizer(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path), ModelConf())
    control = control_tokens(tokenizer, ModelConf())
    for level in CONF.levels:
        _, lines = question(level, CONF, random.Random(level))
        sizes = {
            mode: len(training_response(tokenizer, control, mode, text, ModelConf()))
            for mode, text in ((Mode.THINK, think_answer(lines)), (Mode.SHORT, short_answer(lines)))
        }
        assert sizes == {Mode.THINK: 310, Mode.SHORT: 5}


def test_levels_follow_their_weights_and_streams_differ() -> None:
    drawn = Counter(problem_at(0, i, CONF).level for i in range(2000))
    for level, weight in zip(CONF.levels, CONF.weights, strict=True):
        assert abs(drawn[str(level)] - 2000 * weight) < 4
    texts = [problem_at(3, i, CONF).problem for i in range(50)]
    assert [problem_at(3, i, CONF).problem for i in range(50)] == texts
    assert [problem_at(4, i, CONF).problem for i in range(50)] != texts
    assert [problem_at(3, i, CONF, "validation").problem for i in range(50)] != texts
    assert problem_at(3, 0, CONF).uid == "register/train/3/0"


def test_questions_of_a_level_are_distinct_enough_and_reproducible() -> None:
    problems = problems_of_level(1234, 9, 256, CONF)
    assert problems == problems_of_level(1234, 9, 300, CONF)[:256]
    assert {p.level for p in problems} == {"9"}
    assert len({p.problem for p in problems}) > 200  # of 3,125
    assert max(Counter(p.answer for p in problems).values()) < 0.4 * 256  # no answer that is a good guess


def test_high_levels_depend_on_every_digit() -> None:
    """In half of the registers or more, whichever digit is changed, so that no part of it is a good guess."""

    def last(digits: list[int], level: int) -> int:
        emitted = list(digits)
        for n in range(level):
            emitted.append(int(TABLE[emitted[n]][emitted[n + 4]]))
        return emitted[-1]

    rng = random.Random(0)
    for place in range(5):
        changed = 0
        for _ in range(400):
            one = [rng.randrange(5) for _ in range(5)]
            other = [*one[:place], (one[place] + rng.randrange(1, 5)) % 5, *one[place + 1 :]]
            changed += last(one, 9) != last(other, 9)
        assert changed >= 200, place


@pytest.mark.parametrize("mode", [Mode.THINK, Mode.SHORT])
def test_right_and_wrong_answers_are_graded(mode: Mode) -> None:
    problem, lines = question(9, CONF, random.Random(0))
    answer = lines[-1][-1]
    text = think_answer(lines) if mode is Mode.THINK else short_answer(lines)
    assert graded(text, answer, mode) is Outcome.CORRECT
    wrong = text.replace(rf"\boxed{{{answer}}}", rf"\boxed{{{(int(answer) + 1) % 5}}}")
    assert graded(wrong, answer, mode) is Outcome.WRONG
    assert problem.endswith(":9=")


def graded(text: str, answer: str, mode: Mode) -> Outcome:
    outcome, found = find_answer(text, mode, Finish.STOP, strict=True)
    assert outcome is None and found is not None
    return Outcome.CORRECT if equivalent(found, answer) else Outcome.WRONG


def test_the_experiment_trains_evaluates_and_warms_up_on_it() -> None:
    conf = composed("validation.size=3", "evaluate.questions=2")
    assert conf.warmup is not None and conf.data.task is conf.warmup.task is Task.register
    problems = load_all_problems(conf)
    assert problems.training is None and problems.validation[0].uid == "register/validation/1234/0"
    assert Counter(p.level for p in problems.evaluation) == dict.fromkeys(map(str, conf.data.register.levels), 2)
    assert problems.data_hash == generated.conf_hash(conf.data) != arithmetic.conf_hash(conf.data.arithmetic)
    prompts, dropped = as_prompts(problems.evaluation, lambda text: np.arange(len(text)), 100)
    weights = protocol(conf, prompts)["weights"]
    assert dropped == 0
    assert weights == pytest.approx(
        dict(zip(map(str, conf.data.register.levels), conf.data.register.weights, strict=True))
    )
    pair = load_pairs(conf.warmup).at(0)
    level, problem, lines = question_at(conf.warmup.seed, 0, conf.warmup.register, "warmup")
    assert (pair.problem, pair.short) == (problem, short_answer(lines)) and problem.endswith(f":{level}=")


def test_another_task_in_the_warm_up_is_rejected() -> None:
    conf = composed("warmup=arithmetic")
    with pytest.raises(BadInput, match=r"data.task=register: .*warmup.task=arithmetic: choose warmup=register"):
        refuse_foreign_warmup(conf)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (RegisterConf(levels=[1, 2], weights=[1.0]), "register.levels.*one weight each"),
        (RegisterConf(levels=[10], weights=[1.0]), r"integers in \[0, 9\], got \[10\]"),
        (RegisterConf(lines=9), "register.lines=9 must be at least 10 to hold level 9"),
        (RegisterConf(lines=53), r"lines must be in \[2, 52\], got 53"),
    ],
)
def test_impossible_settings_are_rejected(conf: RegisterConf, message: str) -> None:
    for broken in (
        Config(model=ModelConf(path="some/model"), data=DataConf(task=Task.register, register=conf)),
        Config(warmup=WarmupConf(steps=1, task=Task.register, register=conf), model=ModelConf(path="some/model")),
    ):
        with pytest.raises(BadConfig, match=message):
            check(broken)
