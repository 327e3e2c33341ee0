"""Questions that are kept out of a warm-up's pairs: never trained on, chosen by text and seed alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from conf.schema import WarmupConf
from rollout.data.held_out import SHARE, hold_out, questions_of
from rollout.data.pairs import Pairs, load_pairs, short_answers


def _rows(count: int, **more: Any) -> list[dict[str, Any]]:
    """Every third has no gold answer, every seventh repeats the question before it, some have one side alone."""
    rows = []
    for number in range(count):
        question = number - 1 if number % 7 == 6 else number
        row: dict[str, Any] = {
            "problem": f"{question}+0?",
            "think": f"{question}</think>{question}",
            "short": str(question),
        }
        row |= {"think": None} if number % 5 == 1 else {"short": None} if number % 5 == 2 else {}
        rows.append(row | ({} if number % 3 == 2 else {"answer": question, "level": float(question % 2)}) | more)
    return rows


def _pairs(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Pairs:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_pairs(WarmupConf(path=str(path), **{"evaluate_every": 10, **settings}))


def test_held_out_questions_are_in_no_row_that_is_left(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, _rows(200))
    held = hold_out(pairs, 9, seed=3)
    texts = [problem.problem for problem in held.problems]
    left = [*questions_of(held.pairs)]
    assert len({*texts}) == 9 and not {*texts} & {*left}
    assert len(left) + held.rows == 200 and held.rows > 9  # with the rows that repeat them
    for problem in held.problems:
        number = problem.problem.removesuffix("+0?")
        assert problem.answer == number and problem.level == str(int(number) % 2)
    places = [pair for index in range(held.pairs.size or 0) for pair in held.pairs.together(index)]
    assert {pair.problem for pair in places} == {*left}  # an epoch of the others is whole


def test_which_are_held_out_depends_on_texts_and_seed_alone(tmp_path: Path) -> None:
    rows = _rows(200)
    first = hold_out(_pairs(tmp_path, rows), 9, seed=3)
    random.Random(1).shuffle(rows)
    again = hold_out(_pairs(tmp_path, rows), 9, seed=3)
    assert [p.problem for p in first.problems] == [p.problem for p in again.problems]
    assert [p.uid for p in first.problems] == [p.uid for p in again.problems]
    more = hold_out(_pairs(tmp_path, rows), 10, seed=3)
    assert [p.problem for p in more.problems][:9] == [p.problem for p in first.problems]
    other = hold_out(_pairs(tmp_path, rows), 9, seed=4)
    assert {p.problem for p in other.problems} != {p.problem for p in first.problems}
    assert first.pairs.sha256() != other.pairs.sha256()


@pytest.mark.parametrize(("count", "held"), [(9, 0), (10, 1), (60, 6)])
def test_at_most_a_tenth_of_the_questions_with_an_answer(count: int, held: int, tmp_path: Path) -> None:
    rows = [{"problem": f"{n}?", "think": "x</think>1", "short": "1", "answer": "1"} for n in range(count)]
    found = hold_out(_pairs(tmp_path, [*rows, *rows]), 1000, seed=0)
    assert len(found.problems) == held == int(SHARE * count) and found.rows == 2 * held


def test_answers_are_read_for_an_evaluation_alone_and_are_no_part_of_what_is_learnt(tmp_path: Path) -> None:
    rows = _rows(40)
    without, with_answers = _pairs(tmp_path, rows, evaluate_every=0), _pairs(tmp_path, rows)
    assert {pair.answer for pair in without.rows or ()} == {None}
    assert without.sha256() == with_answers.sha256()
    renamed = [{"gold" if key == "answer" else key: value for key, value in row.items()} for row in rows]
    found = _pairs(tmp_path, renamed, answer_column="gold")
    assert [pair.answer for pair in found.rows or ()] == [pair.answer for pair in with_answers.rows or ()]
    several = _pairs(tmp_path, _rows(3, answer='["1", "2"]', level=None))
    assert (several.rows or ())[0].answer == ("1", "2")
    unusable = _pairs(tmp_path, _rows(3, answer="  "))
    assert (unusable.rows or ())[0].answer is None  # its pair is as good as before
    assert unusable.unusable == {}


def test_short_answers_are_taken_evenly(tmp_path: Path) -> None:
    every = short_answers(_pairs(tmp_path, _rows(200)), 1000)
    some = short_answers(_pairs(tmp_path, _rows(200)), 20)
    assert len(every) == 160 and {*some} < {*every} and 20 <= len(some) <= 45
    assert short_answers(load_pairs(WarmupConf(steps=1)), 3) == [
        str(load_pairs(WarmupConf(steps=1)).at(i).short) for i in range(3)
    ]
