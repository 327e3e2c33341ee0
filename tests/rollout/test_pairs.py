"""Warm-up pairs: each is a function of its number, both answers agree, epochs are complete; bad files are rejected."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conf.schema import ArithmeticConf, ModelConf, WarmupConf
from rollout.base.errors import BadInput
from rollout.data.arithmetic import problem_at
from rollout.data.pairs import Pair, gsm8k_pair, load_pairs
from rollout.data.tokens import (
    build_character_tokenizer,
    control_tokens,
    generation_prompt,
    load_tokenizer,
    training_response,
)

GOOD = {"problem": "1+1?", "think": "<think>\nhm</think>\\boxed{2}", "short": "<short>\\boxed{2}"}


def _file(folder: Path, *rows: Any) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_generated_pair_is_a_function_of_seed_and_number() -> None:
    pairs, again = load_pairs(WarmupConf(seed=5)), load_pairs(WarmupConf(seed=5))
    first = [pairs.at(i) for i in range(40)]
    assert [again.at(i) for i in reversed(range(40))] == first[::-1]
    other = load_pairs(WarmupConf(seed=6))
    assert pairs.size is None and [other.at(i) for i in range(40)] != first
    for pair in first:
        final = re.findall(r"\\boxed\{(\d)\}", pair.think)
        assert pair.short == rf"\boxed{{{final[0]}}}" and len(final) == 1
        assert pair.think.count("</think>") == 1


def test_warm_up_questions_are_not_those_of_training() -> None:
    conf = ArithmeticConf(levels=[9], weights=[1.0], width=17, max_digit=9)
    pairs = load_pairs(WarmupConf(arithmetic=conf))
    assert not {pairs.at(i).problem for i in range(500)} & {problem_at(0, i, conf).problem for i in range(500)}


def test_answers_have_the_documented_numbers_of_tokens(tmp_path: Path) -> None:
    """What the quickstart's task costs: 17/29/77/89 tokens long, 5 short, for k = 2/3/7/8."""
    from rollout.mode import Mode

    build_character_tokenizer(tmp_path)
    model = ModelConf()
    tokenizer = load_tokenizer(tmp_path, model)
    control = control_tokens(tokenizer, model)
    for level, cost in ((2, 17), (3, 29), (7, 77), (8, 89)):
        pair = load_pairs(WarmupConf(arithmetic=ArithmeticConf([level], [1.0]))).at(0)
        prompt = generation_prompt(tokenizer, pair.problem, model)
        think, short = (
            training_response(tokenizer, control, mode, text, model)
            for mode, text in ((Mode.THINK, pair.think), (Mode.SHORT, pair.short))
        )
        assert (len(prompt), len(think), len(short)) == (1 + 15 + 3 + 1, cost, 5)


def test_epochs_of_a_file_are_complete_and_reshuffled(tmp_path: Path) -> None:
    path = _file(tmp_path, *({**GOOD, "problem": str(i)} for i in range(20)))
    pairs = load_pairs(WarmupConf(path=path))
    assert pairs.size == 20
    epochs = [[pairs.at(e * 20 + i).problem for i in range(20)] for e in range(3)]
    assert all(Counter(epoch) == Counter(map(str, range(20))) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert [pairs.at(i).problem for i in range(20)] == epochs[0]


def test_control_tokens_repeated_in_a_file_are_dropped(tmp_path: Path) -> None:
    pairs = load_pairs(WarmupConf(path=_file(tmp_path, GOOD)))
    assert pairs.at(0) == Pair("1+1?", "\nhm</think>\\boxed{2}", "\\boxed{2}")
    assert pairs.sha256() != load_pairs(WarmupConf()).sha256()


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    path = _file(tmp_path, {"q": "1+1?", "long": "hm</think>2", "brief": "2"})
    conf = WarmupConf(path=path, problem_column="q", think_column="long", short_column="brief")
    assert load_pairs(conf).at(0) == Pair("1+1?", "hm</think>2", "2")


def test_unusable_rows_are_counted_up_to_a_share(tmp_path: Path) -> None:
    bad = {**GOOD, "short": None}
    conf = WarmupConf(path=_file(tmp_path, *[GOOD] * 39, bad))
    pairs = load_pairs(conf)
    assert pairs.size == 39 and pairs.unusable == {"short is null": 1}
    _file(tmp_path, *[GOOD] * 10, bad)
    with pytest.raises(BadInput, match=r"more than 5%, 1 of 11 rows not usable \(short is null: 1\); fix"):
        load_pairs(conf)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"think": "never closed \\boxed{2}"}, "think has no answer after </think>"),
        ({"think": "hm</think> \n"}, "think has no answer after </think>"),
        ({"problem": ["1+1?"]}, "problem is a list, not text"),
        ({"problem": "\ud800"}, "half a surrogate"),
        ({"short": ""}, "short is empty"),
        ({"short": "1+1=2</think>\\boxed{2}"}, "short contains a think token"),
    ],
)
def test_unusable_rows_are_rejected_with_the_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_pairs(WarmupConf(path=_file(tmp_path, {**GOOD, **row})))


def test_bad_files_are_one_line_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no column 'think' \(warmup.think_column\).*nearest: thinks"):
        load_pairs(WarmupConf(path=_file(tmp_path, {"problem": "1", "thinks": "2", "short": "3"})))
    with pytest.raises(BadInput, match=r"warmup.path=.*no such file"):
        load_pairs(WarmupConf(path=str(tmp_path / "absent.jsonl")))
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(BadInput, match=r"warmup.path=.*empty"):
        load_pairs(WarmupConf(path=str(tmp_path / "empty.json")))


def test_the_gsm8k_adapter_gives_both_answers() -> None:
    row = {"question": "How many?", "answer": "5 * 2 = <<5*2=10>>10\nso 1,010 in all\n#### 1,010"}
    assert gsm8k_pair(row) == {
        "problem": "How many?",
        "think": "5 * 2 = 10\nso 1,010 in all</think>\\boxed{1010}",
        "short": "\\boxed{1010}",
    }


def test_an_adapter_reads_rows_of_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "1+1?", "answer": "1+1=2 #### 2"}) + "\n")
    pairs = load_pairs(WarmupConf(path=str(path), adapter="rollout.data.pairs:gsm8k_pair"))
    assert pairs.at(0) == Pair("1+1?", "1+1=2</think>\\boxed{2}", "\\boxed{2}")
    path.write_text(json.dumps({"question": "1+1?"}) + "\n")
    with pytest.raises(BadInput, match=r"row 0: warmup.adapter=.* raised KeyError: 'answer'"):
        load_pairs(WarmupConf(path=str(path), adapter="rollout.data.pairs:gsm8k_pair"))
    with pytest.raises(BadInput, match=r"json:dumps must return a dict with problem and think and short"):
        load_pairs(WarmupConf(path=str(path), adapter="json:dumps"))
    with pytest.raises(BadInput, match=r"has no function nothing"):
        load_pairs(WarmupConf(path=str(path), adapter="rollout.data.pairs:nothing"))
