"""Laws of the generated task: answers right, every question reproducible from (seed, index) alone."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.check import check
from conf.errors import BadConfig
from conf.schema import ArithmeticConf, Config, DataConf, ModelConf
from rollout.data.arithmetic import problem_at, problems_of_level, question, short_answer, think_answer

CONF = ArithmeticConf()


@given(level=st.integers(2, 12), pad=st.integers(0, 8), top=st.integers(1, 9), seed=st.integers())
def test_a_question_is_a_chain_of_absolute_differences(level: int, pad: int, top: int, seed: int) -> None:
    width = 2 * level - 1 + pad
    problem, steps = question(level, ArithmeticConf(width=width, max_digit=top), random.Random(seed))
    expression, marker = problem[:width], problem[width:]
    assert marker == f":{level}="
    terms = [int(term) for term in expression.rstrip().split("~")]
    assert len(terms) == level and all(0 <= term <= top for term in terms)
    values = list(itertools.accumulate(terms, lambda a, b: abs(a - b)))
    assert [f"{a}~{term}={b}" for a, term, b in zip(values, terms[1:], values[1:], strict=False)] == list(steps)
    assert short_answer(steps) == rf"\boxed{{{values[-1]}}}"


def test_answers_have_the_documented_form() -> None:
    steps = ("5~2=3", "3~4=1")
    assert think_answer(steps) == r"5~2=3;3~4=1?5~2=3;3~4=1</think>\boxed{1}"
    assert short_answer(steps) == r"\boxed{1}"


def test_a_question_is_a_function_of_seed_and_index() -> None:
    one = [problem_at(3, i, CONF) for i in range(50)]
    assert [problem_at(3, i, CONF) for i in reversed(range(50))] == one[::-1]
    assert len({p.uid for p in one}) == 50
    texts = [p.problem for p in one]
    assert [problem_at(4, i, CONF).problem for i in range(50)] != texts
    assert [problem_at(3, i, CONF, "validation").problem for i in range(50)] != texts
    assert one[0].problem == "5~4~4          :3=" and one[0].uid == "arithmetic/train/3/0"  # across machines


def test_levels_follow_their_weights() -> None:
    drawn = Counter(problem_at(0, i, CONF).level for i in range(4000))
    for level, weight in zip(CONF.levels, CONF.weights, strict=True):
        assert abs(drawn[str(level)] - 4000 * weight) < 4
    for start in range(0, 960, 32):  # and every batch has its hard questions
        batch = Counter(problem_at(0, i, CONF).level for i in range(start, start + 32))
        assert all(abs(batch[str(k)] - 32 * w) < 2.5 for k, w in zip(CONF.levels, CONF.weights, strict=True)), batch


def test_problems_of_level_are_reproducible_and_of_that_level() -> None:
    problems = problems_of_level(1234, 6, 64, CONF)
    assert problems == problems_of_level(1234, 6, 128, CONF)[:64]
    assert {p.level for p in problems} == {"6"} and len({p.problem for p in problems}) >= 62
    assert all(p.problem.endswith(":6=") and len(p.problem) == CONF.width + 3 for p in problems)
    trained = {problem_at(0, i, CONF).problem for i in range(2000)}
    assert len(trained & {p.problem for p in problems}) <= 2  # of 46,656 questions


def test_level_2_has_36_questions() -> None:
    assert len({p.problem for p in problems_of_level(0, 2, 3000, CONF)}) == 36


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (ArithmeticConf(levels=[2, 3], weights=[1.0]), "one weight each"),
        (ArithmeticConf(levels=[2, 2], weights=[1.0, 1.0]), "must be different"),
        (ArithmeticConf(levels=[], weights=[]), "one weight each"),
        (ArithmeticConf(levels=[2, 3], weights=[0.0, 0.0]), "must not all be 0"),
        (
            ArithmeticConf(levels=[2, 3], weights=[2.0, -1.0]),
            r"weights must be .* in \[0, 1e6\], got \[2.0, -1.0\]",
        ),
        (ArithmeticConf(max_digit=0), r"max_digit must be in \[1, 9\], got 0"),
        (ArithmeticConf(levels=[1], weights=[1.0]), r"integers in \[2, 100\], got \[1\]"),
        (ArithmeticConf(levels=[10], weights=[1.0]), "width=15 must be at least 19 to hold level 10"),
    ],
)
def test_impossible_settings_are_rejected(conf: ArithmeticConf, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        check(Config(model=ModelConf(path="some/model"), data=DataConf(arithmetic=conf)))
