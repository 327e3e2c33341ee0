"""Problem sets: real files load unchanged, every form of answer is read, every bad file is one clear line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conf.choices import SystemTurn
from conf.schema import DataConf, ValidationConf, WarmupConf
from rollout.base.errors import BadInput
from rollout.data.dataset_rows import HUB_SETS
from rollout.data.pairs import load_pairs
from rollout.data.problems import (
    Problem,
    content_hash,
    load_problems,
    split_validation,
    validation_data,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def _json(folder: Path, content: Any, name: str = "set.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def _answers(folder: Path, *answers: Any, **conf: Any) -> list[Any]:
    path = _json(folder, [{"problem": "p", "answer": a} for a in answers])
    return [p.answer for p in load_problems(DataConf(path=path, **conf)).problems]


# ---- the real files ----


@pytest.mark.parametrize(
    ("name", "rows", "usable", "first", "level"),
    [
        ("gsm8k/train.jsonl", 7473, 7473, "72", None),
        ("gsm8k/test.jsonl", 1319, 1319, "18", None),
        ("math/train.json", 7474, 7470, "0", "5"),
        ("math/math500.json", 500, 500, r"\left( 3, \frac{\pi}{2} \right)", "2"),
        ("aime24.json", 30, 30, "204", "2"),
        ("aime_train.json", 975, 975, "60", "4"),
        ("amc.json", 83, 83, "142", "2"),
        ("minerva.json", 272, 272, "9.6", None),
        ("olympiad_bench.json", 675, 675, "2", None),
    ],
)
def test_real_problem_sets_load_with_known_counts(
    name: str, rows: int, usable: int, first: str, level: str | None
) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs {name} in ../shared/data")
    loaded = load_problems(DataConf(path=str(SHARED / name)))
    assert (loaded.rows, len(loaded.problems)) == (rows, usable)
    assert (loaded.problems[0].answer, loaded.problems[0].level) == (first, level)
    assert len({p.uid for p in loaded.problems}) == usable
    for p in loaded.problems:
        for answer in (p.answer,) if isinstance(p.answer, str) else p.answer:
            assert answer == answer.strip() != "" and "####" not in answer
    if name == "math/train.json":
        assert loaded.unusable == {"answer is null": 2, "answer is empty": 2}
        assert "4 of 7474 rows not usable" in loaded.summary()
    if name.startswith("gsm8k"):
        assert all("," not in p.answer for p in loaded.problems)
    if name == "minerva.json":
        assert sum(isinstance(p.answer, tuple) for p in loaded.problems) == 40  # 35 lists repeat one answer


# ---- forms of files ----


def test_every_json_layout_gives_the_same_data(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"problem": f"{i}+1?\u2028", "answer": str(i + 1), "level": i} for i in range(3)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    paths = [
        _json(tmp_path, rows, "list.json"),
        _json(tmp_path, columns, "columns.json"),
        _json(tmp_path, {"data": rows}, "wrapped.json"),
        _json(tmp_path, lines, "lines.json"),
        _json(tmp_path, lines.replace("\n", "\r\n\r\n") + "\r\n", "lines.jsonl"),
        _json(tmp_path, "\ufeff" + lines, "bom.jsonl"),
        str(tmp_path / "set.parquet"),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), paths[-1])
    loaded = [load_problems(DataConf(path=path)) for path in paths]
    assert len({one.sha256 for one in loaded}) == 1
    assert [p.level for p in loaded[0].problems] == ["0", "1", "2"]
    assert loaded[0].problems[1] == Problem(f"{tmp_path.name}/list/1", "1+1?", "2", f"{tmp_path.name}/list", "1")


def test_lists_in_parquet_are_several_golds(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a", "b"], "answer": [["1", "2"], ["3\n"]]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert [p.answer for p in load_problems(DataConf(path=str(tmp_path / "x.parquet"))).problems] == [("1", "2"), "3"]


# ---- forms of answers ----


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("  5\n", "5"),
        ("025", "025"),
        ("1, 2, 3", "1, 2, 3"),
        (27.0, "27"),
        (-0.5, "-0.5"),
        (1e-7, "0.0000001"),
        (27, "27"),
        (True, "True"),
        (["9.6\n"], "9.6"),
        (["1", "2", "1"], ("1", "2")),
        ([1.0, None], "1"),
        ("reason\n#### 1,010", "1010"),
        ("a #### b #### 3, 4", "3, 4"),
        ('["3", "4"]', ("3", "4")),
        ("['3', '4']", ("3", "4")),
        ("['3' '4'\n '5']", ("3", "4", "5")),
        (' ["7"] ', "7"),
        ('["3", 4, "3"]', ("3", "4")),
        (r'["\\frac{1}{2}", "0.5"]', (r"\frac{1}{2}", "0.5")),
        (r'["\frac{1}{2}", "\theta"]', (r"\frac{1}{2}", r"\theta")),
        (r"['\\sqrt{2}']", r"\sqrt{2}"),
        (["9.6\n", '["1"]'], ("9.6", '["1"]')),
        ("[1, 2]", "[1, 2]"),
        ("[3]", "[3]"),
        ("[0, 1)", "[0, 1)"),
        ("[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]"),
        ('["3", "4"', '["3", "4"'),
        ('["a"] or ["b"]', '["a"] or ["b"]'),
        (r"\text{None}", r"\text{None}"),
        ("-1", "-1"),
        ("none of them", "none of them"),
    ],
)
def test_every_form_of_answer_is_read(tmp_path: Path, given: Any, read: Any) -> None:
    assert _answers(tmp_path, given) == [read]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "answer is null"),
        (" \n", "answer is empty"),
        ("so #### ", "answer is empty"),
        ([], "answer is an empty list"),
        (["", None], "answer is an empty list"),
        ([["1"]], "answer is a list of lists"),
        ({"value": 1}, "answer is a dict, not text"),
        (float("nan"), "answer is not a finite number"),
        ("\ud800", "answer contains half a surrogate pair"),
        ("NaN", "answer is nan"),
        ("None", "answer is none"),
        (" n/a\n", "answer is n/a"),
        ("so there is #### N/A", "answer is n/a"),
        (["null", "?"], "answer is an empty list"),
        ('["-"]', "answer is an empty list"),
        ("[]", "answer is []"),
        ("x" * 10_001, "answer has more than 10000 characters"),
        (f"{'steps ' * 9_000}#### {'9' * 10_001}", "answer has more than 10000 characters"),
    ],
)
def test_unusable_answers_are_counted_with_the_reason(tmp_path: Path, given: Any, reason: str) -> None:
    path = _json(tmp_path, [{"problem": "p", "answer": given}] + [{"problem": "p", "answer": "1"}] * 20)
    loaded = load_problems(DataConf(path=path))
    assert loaded.unusable == {reason: 1} and len(loaded.problems) == 20
    assert loaded.problems[0].uid.endswith("/1")  # rows keep their numbers
    said = re.escape(f"({reason}: 1, the first is row 0 of {tmp_path.name}/set)")
    with pytest.raises(BadInput, match=f"max_unusable=0.04, 1 of 21 rows not usable {said}"):
        load_problems(DataConf(path=path, max_unusable=0.04))
    assert "row 0 of" in loaded.summary() and "\n" not in loaded.summary()


def test_an_integer_beyond_floats_is_an_answer(tmp_path: Path) -> None:
    assert _answers(tmp_path, 10**400, f"{'steps ' * 9_000}#### 7") == [str(10**400), "7"]


@pytest.mark.parametrize(
    ("level", "read"),
    [(3.0, "3"), ("hard", "hard"), (float("nan"), None), (["a"], None), ("x" * 101, None), ("\ud800", None)],
)
def test_a_level_is_a_short_name(tmp_path: Path, level: Any, read: str | None) -> None:
    path = _json(tmp_path, [{"problem": "p", "answer": "1", "level": level}])
    assert load_problems(DataConf(path=path)).problems[0].level == read


def test_a_problem_of_a_million_characters_is_left_out(tmp_path: Path) -> None:
    path = _json(tmp_path, [{"problem": "p" * 1_000_001, "answer": "1"}] + [{"problem": "p", "answer": "1"}] * 20)
    assert load_problems(DataConf(path=path)).unusable == {"problem has more than 1000000 characters": 1}


def test_a_table_with_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    ends = pyarrow.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, ends, pyarrow.py_buffer(b"\xff\xfe")])
    path = tmp_path / "set.parquet"
    columns = [pyarrow.array(["1", "2"]), broken]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["problem", "answer"]), path)
    with pytest.raises(BadInput, match=rf"data.path={path}: rows from 0 on cannot be read \(.*utf-8"):
        load_problems(DataConf(path=str(path)))


def test_the_list_of_unusable_answers_is_a_setting(tmp_path: Path) -> None:
    assert _answers(tmp_path, "None", "?", unusable_answers=[]) == ["None", "?"]
    assert _answers(tmp_path, "None", "TBD", unusable_answers=["tbd"], max_unusable=0.5) == ["None"]
    assert _answers(tmp_path, ["1", "N/A"], '["N/A", "2"]') == ["1", "2"]


def test_a_list_of_answers_means_any_or_all(tmp_path: Path) -> None:
    assert _answers(tmp_path, ["1", None], max_unusable=1.0) == ["1"]
    path = _json(tmp_path, [{"problem": "p", "answer": ["1", "2"]}, {"problem": "p", "answer": ["1", None]}])
    loaded = load_problems(DataConf(path=path, all_answers=True, max_unusable=0.5))
    assert [(p.answer, p.all_answers) for p in loaded.problems] == [(("1", "2"), True)]
    assert loaded.unusable == {"answer is null": 1}


def test_solution_serves_where_there_is_no_answer(tmp_path: Path) -> None:
    rows = [
        {"problem": "p", "solution": r"so \boxed{1}, no: $\boxed{\frac{1}{2}}$."},
        {"problem": "p", "solution": "?"},
    ]
    loaded = load_problems(DataConf(path=_json(tmp_path, rows), max_unusable=0.5))
    assert loaded.problems[0].answer == r"\frac{1}{2}"
    assert loaded.unusable == {"solution has no \\boxed{} answer": 1}
    both = _json(tmp_path, [{"problem": "p", "solution": "long", "answer": "3"}])
    assert load_problems(DataConf(path=both)).problems[0].answer == "3"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("42", "42"),
        (r"$\frac{1}{2}$", r"$\frac{1}{2}$"),
        ("thus\n#### 7", "7"),
        (r"so \boxed{3}", "3"),
        ("(0,1]", "(0,1]"),
    ],
)
def test_a_short_solution_is_the_answer(tmp_path: Path, solution: str, answer: str) -> None:
    rows = [{"prompt": "p", "solution": solution}]
    assert load_problems(DataConf(path=_json(tmp_path, rows))).problems[0].answer == answer


@pytest.mark.parametrize("solution", ["It is 42", "$1$ and $2$", "$x$\n$y$", "?"])
def test_a_solution_without_an_answer_is_unusable(tmp_path: Path, solution: str) -> None:
    with pytest.raises(BadInput, match="solution has no"):
        load_problems(DataConf(path=_json(tmp_path, [{"prompt": "p", "solution": solution}])))


USER = {"role": "user", "content": "1+1?"}


@pytest.mark.parametrize(
    "row",
    [
        {
            "data_source": "x",
            "prompt": [USER],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {},
        },
        {"prompt": [USER], "solution": r"$\boxed{2}$"},
        {"prompt": "1+1?", "ground_truth": 2},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": r"It is \boxed{2}."}]},
        {"input": "1+1?", "label": "2"},
        {"messages": [USER], "answer": "2"},
        {"messages": [USER, {"role": "assistant", "content": r"1+1=\boxed{2}"}]},
        {"messages": [USER, {"role": "assistant", "content": "1+1=2\n#### 2"}], "level": None},
        {"messages": [USER, {"role": "assistant", "content": "3?"}], "answer": 2.0},
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": r"\boxed{2}"}]},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1"}, {"type": "text", "text": "?"}]}],
            "answer": 2,
        },
        {"prompt": [{"role": "system", "content": " "}, USER], "answer": "2"},
    ],
)
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_common_layouts_of_other_projects_are_read(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / f"set.{kind}"
    if kind == "json":
        path.write_text(json.dumps([row]))
    elif row.get("extra_info") != {}:  # parquet has no empty struct
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row, "extra_info": {"index": 3}}]), path)
    found = load_problems(DataConf(path=str(path))).problems[0]
    assert (found.problem, found.answer) == ("1+1?", "2")


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([SYSTEM, USER], "problem has a system turn: choose data.system_turn=drop, or prepend"),
        ([USER, USER], "problem has several user turns, not one question"),
        ([USER, {"role": "assistant", "content": "Let me think"}], "problem has the turns user assistant"),
        ([{"role": "assistant", "content": "Hi"}, USER], "problem has the turns assistant user"),
        ([USER, {"role": "tool", "content": "2"}], "problem has the turns user tool"),
        ([{"role": "system", "content": ""}], "problem has the turns system"),
        ([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "problem has a turn that is not text"),
        ([{"content": "1+1?"}], "problem is a list, not text"),
        ([], "problem is a list, not text"),
    ],
)
def test_chats_that_are_not_one_question_are_rejected(tmp_path: Path, turns: list[Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_problems(DataConf(path=_json(tmp_path, [{"prompt": turns, "answer": "2"}])))


def test_a_system_turn_is_dropped_or_prepended(tmp_path: Path) -> None:
    path = _json(tmp_path, [{"prompt": [SYSTEM, USER], "answer": "2"}])
    for choice, problem in ((SystemTurn.drop, "1+1?"), (SystemTurn.prepend, "Be brief.\n\n1+1?")):
        assert load_problems(DataConf(path=path, system_turn=choice)).problems[0].problem == problem


def test_unknown_layouts_are_one_line_with_their_columns(tmp_path: Path) -> None:
    alpaca = _json(tmp_path, [{"instruction": "Add.", "input": "1+1", "output": "2"}], "alpaca.json")
    with pytest.raises(BadInput, match=r"no column named problem or question.*instruction, input, output"):
        load_problems(DataConf(path=alpaca))
    verl = _json(tmp_path, [{"prompt": [USER], "reward_model": {"style": "model"}}], "verl.json")
    with pytest.raises(BadInput, match=r"no column named answer.*prompt, reward_model, reward_model.style"):
        load_problems(DataConf(path=verl))


def test_a_field_inside_a_column_can_be_chosen(tmp_path: Path) -> None:
    rows = [{"q": {"en": "1+1?", "fr": "un et un?"}, "gold.value": "2"}, {"q": None, "gold.value": "3"}]
    conf = DataConf(path=_json(tmp_path, rows), problem_column="q.fr", answer_column="gold.value", max_unusable=0.5)
    loaded = load_problems(conf)
    assert (loaded.problems[0].problem, loaded.problems[0].answer) == ("un et un?", "2")
    assert loaded.unusable == {"problem is null": 1}


def test_unusable_problems_are_counted_with_the_reason(tmp_path: Path) -> None:
    rows = [{"problem": p, "answer": "1"} for p in (None, " ", ["a"])] + [
        {"answer": "1"},
        {"problem": "p", "answer": 1},
    ]
    loaded = load_problems(DataConf(path=_json(tmp_path, rows), max_unusable=0.8))
    assert loaded.unusable == {"problem is null": 2, "problem is empty": 1, "problem is a list, not text": 1}
    assert loaded.rows == len(loaded.problems) + sum(loaded.unusable.values())


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    path = _json(tmp_path, [{"q": "1+1?", "gold": 2, "grade": "easy", "answer": "no"}])
    conf = DataConf(path=path, problem_column="q", answer_column="gold", level_column="grade")
    problem = load_problems(conf).problems[0]
    assert (problem.problem, problem.answer, problem.level) == ("1+1?", "2", "easy")


# ---- bad files ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "the file is empty"),
        ("a.jsonl", "\n \n", "the file is empty"),
        ("a.json", "[]", "the file is empty"),
        ("a.json", "hello", "line 1: not JSON"),
        ("a.json", '[{"problem": "a",\n "answer": }]', "line 2: not JSON"),
        ("a.jsonl", '{"problem": "a", "answer": "1"}\n\n{"problem": "b"', "line 3: not JSON"),
        ("a.json", '{"problem": "a", "answer": "1"}\n{"problem": "b"', "line 2: not JSON"),
        ("a.json", '{"problem": "a", "answer": "1"}', "must be a list of objects"),
        ("a.json", "3", "contains a int"),
        ("a.json", '["a"]', "row 0 is a str"),
        ("a.jsonl", "[1]", "row 0 is a list"),
        ("a.json", '{"problem": ["a", "b"], "answer": ["1"]}', "columns differ in length"),
        ("a.json", '[{"text": "a", "answer": "1"}]', "no column named problem or question or prompt.*text, answer"),
        ("a.json", '[{"problem": "a", "gold": "1"}]', "no column named answer.*name one with data.answer_column"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "problem,answer\n", "the file is empty"),
        ("a.csv", 'problem,answer\np,"1', "line 2: not CSV"),
        ("a.csv", "problem,answer\np,1,2\n", "line 2: 3 values for 2 columns"),
        ("a.csv", "answer,answer\n1,2\n", "'answer' occurs twice"),
        ("a.arrow", "not arrow", "not a .arrow file"),
        ("a.xlsx", "PK", "unknown kind of file '.xlsx'"),
        ("a.jsonl.gz", "not gzip", "cannot be read"),
        ("a.jsonl", "[" * 100_000, "line 1: JSON nested too deeply"),
        ("a.json", "[" * 100_000, "JSON nested too deeply"),
        ("a.parquet", "not parquet", "not a .parquet file"),
    ],
)
def test_bad_files_are_one_line_with_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_problems(DataConf(path=_json(tmp_path, content, name)))
    assert "\n" not in str(caught.value) and name.split(".")[0] in str(caught.value)


def test_bad_paths_are_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    path = _json(tmp_path, [{"problem": "a", "answer": "1", "solution": "x"}], "train.json")
    with pytest.raises(BadInput, match=r"no such file or folder; nearest: train.json"):
        load_problems(DataConf(path=str(tmp_path / "trian.json")))
    with pytest.raises(BadInput, match="no such file"):
        load_problems(DataConf(path="nowhere/train.jsonl"))
    with pytest.raises(BadInput, match=r"unknown kind of file '.txt'"):
        load_problems(DataConf(path="nowhere/train.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is a folder without"):
        load_problems(DataConf(path=str(tmp_path / "empty")))
    with pytest.raises(BadInput, match=r"^data.path=/ is a folder with more than 20000 files: name the data's own"):
        load_problems(DataConf(path="/"))  # not looked through to its end
    with pytest.raises(BadInput, match=r"data.path is not set"):
        load_problems(DataConf())
    with pytest.raises(BadInput, match=r"no column 'anwser' \(data.answer_column\).*nearest: answer"):
        load_problems(DataConf(path=path, answer_column="anwser"))
    with pytest.raises(BadInput, match=r"no column 'levle' \(data.level_column\)"):
        load_problems(DataConf(path=path, level_column="levle"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "gr\xf6\xdfer"}')
    with pytest.raises(BadInput, match="not UTF-8"):
        load_problems(DataConf(path=str(tmp_path / "latin.jsonl")))


def test_a_set_without_usable_rows_is_rejected_whatever_the_share(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none is left, 1 of 1 rows not usable"):
        _answers(tmp_path, None, max_unusable=1.0)


# ---- the hub ----


def test_hub_sets_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    requested = []

    def fake(name: str, subset: str | None, *, split: str, revision: str) -> datasets.Dataset:
        requested.append((name, subset, split, revision))
        return datasets.Dataset.from_list([{"question": "1+1?", "problem": "1+1?", "answer": "#### 2", "level": 3}])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    for name, pinned in HUB_SETS.items():
        loaded = load_problems(DataConf(path=name))
        assert requested.pop() == (name, pinned.subset, pinned.split, pinned.revision)
        assert pinned.revision and len(pinned.revision) == 40 and int(pinned.revision, 16)
        assert loaded.problems[0] == Problem(f"{name}/{pinned.split}/0", "1+1?", "2", name, "3")
    load_problems(DataConf(path="openai/gsm8k", split="test", revision="abc", subset="socratic"))
    assert requested.pop() == ("openai/gsm8k", "socratic", "test", "abc")
    load_problems(DataConf(path="someone/else", revision="abc"))
    assert requested.pop() == ("someone/else", None, "train", "abc")


def test_hub_sets_of_pairs_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As problems are; the advice where none is pinned, warmup.revision, is one that counts."""
    import datasets

    requested = []

    def fake(name: str, subset: str | None, *, split: str, revision: str) -> datasets.Dataset:
        requested.append((name, subset, split, revision))
        row = {
            "question": "1+1?",
            "answer": "1 + 1 = 2\n#### 2",
            "problem": "1+1?",
            "think": "2</think>2",
            "short": "2",
        }
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    pinned = HUB_SETS["openai/gsm8k"]
    load_pairs(WarmupConf(path="openai/gsm8k"))
    load_pairs(WarmupConf(path="openai/gsm8k", revision="abc", subset="socratic", split="test"))
    with pytest.raises(BadInput, match=r"give warmup\.revision=<commit>"):
        load_pairs(WarmupConf(path="someone/pairs"))
    load_pairs(WarmupConf(path="someone/pairs", revision="abc"))
    assert requested == [
        ("openai/gsm8k", pinned.subset, pinned.split, pinned.revision),
        ("openai/gsm8k", "socratic", "test", "abc"),
        ("someone/pairs", None, "train", "abc"),
    ]


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(BadInput, match=r"openai/gsm8k.*ConnectionError: Couldn't reach.*data.path=<local") as caught:
        load_problems(DataConf(path="openai/gsm8k"))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"data.path=data/train: no such file.*/data/train.*give data.revision=<commit>"):
        load_problems(DataConf(path="data/train"))


# ---- adapters ----


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("an_adapter")
    monkeypatch.setitem(sys.modules, "an_adapter", module)
    yield module


def test_an_adapter_gives_problems_and_skips_rows(adapter: ModuleType, tmp_path: Path) -> None:
    def fn(row: dict[str, Any]) -> dict[str, Any] | None:
        n = row.pop("n")
        return (
            None
            if n == 1
            else {"problem": f"{n}?", "answer": [n, -n], "uid": f"n{n}", "level": n, "all_answers": n > 2}
        )

    vars(adapter)["fn"] = fn
    conf = DataConf(path=_json(tmp_path, [{"n": n} for n in range(1, 4)]), adapter="an_adapter:fn", max_unusable=0.0)
    loaded = load_problems(conf)
    source = f"{tmp_path.name}/set"
    assert loaded.problems == (
        Problem(f"{source}/n2", "2?", ("2", "-2"), source, "2"),
        Problem(f"{source}/n3", "3?", ("3", "-3"), source, "3", all_answers=True),
    )
    assert loaded.unusable == {"skipped by the adapter": 1}  # a choice: not held against max_unusable


def test_bad_adapters_are_one_line_with_the_row(adapter: ModuleType, tmp_path: Path) -> None:
    path = _json(tmp_path, [{"n": 1}, {"n": 0}])
    vars(adapter).update(
        fails=lambda row: {"problem": "p", "answer": 1 // row["n"], "uid": row["n"]},
        wrong=lambda row: {"question": "p"},
        same=lambda row: {"problem": "p", "answer": "1", "uid": "u"},
        skips=lambda row: None,
    )
    for spec, message in (
        ("an_adapter:fails", r"set, row 1: data.adapter=an_adapter:fails raised ZeroDivisionError"),
        ("an_adapter:wrong", r"row 0: .* must return a dict with problem and answer"),
        ("an_adapter:same", r"2 rows have the uid .*u'"),
        ("an_adapter:skips", r"none is left, 2 of 2 rows not usable \(skipped by the adapter: 2\)"),
        ("an_adapter:fial", r"no function fial; nearest: fails"),
        ("no_such_module_here:fn", r"cannot import no_such_module_here"),
        ("an_adapter", r"must read pkg.mod:fn"),
    ):
        with pytest.raises(BadInput, match=message):
            load_problems(DataConf(path=path, adapter=spec))


# ---- hold-out ----


def test_validation_problems_are_disjoint_from_training() -> None:
    problems = [Problem(f"s/{i}", f"{i % 15}?", str(i), "s") for i in range(20)]  # the last five repeat questions
    training, held = split_validation(problems, 6, seed=1)
    assert (training, held) == split_validation(problems, 6, seed=1) != split_validation(problems, 6, seed=2)
    assert len(held) == 6 and not {p.problem for p in training} & {p.problem for p in held}
    assert [p for p in problems if p in training] == training and [p for p in problems if p in held] == held
    assert split_validation(problems, 0, seed=1) == (problems, [])
    for size in (20, -1):
        with pytest.raises(BadInput, match=f"validation.size={size}"):
            split_validation(problems, size, seed=1)
    with pytest.raises(BadInput, match="leaves no training problem"):
        split_validation([problems[0], problems[15]], 1, seed=1)


def test_the_content_hash_covers_only_question_answer_and_level() -> None:
    one = Problem("a/0", "p", "1", "a")
    assert content_hash([one]) == content_hash([replace(one, uid="b/7", source="b")])
    for other in (replace(one, problem="q"), replace(one, answer=("1",)), replace(one, level="1")):
        assert content_hash([other]) != content_hash([one])


def test_a_validation_set_is_read_with_the_training_sets_settings() -> None:
    data = DataConf(path="a.json", split="train", problem_column="q", shard=1, num_shards=2, max_unusable=0.5)
    read = validation_data(ValidationConf(path="b.json"), data)
    assert read == DataConf(path="b.json", problem_column="q", max_unusable=0.5)
