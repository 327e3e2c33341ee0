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
        assert pair.think is not None
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
            for mode, text in ((Mode.THINK, str(pair.think)), (Mode.SHORT, str(pair.short)))
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
    bad = {**GOOD, "short": " "}
    conf = WarmupConf(path=_file(tmp_path, *[GOOD] * 39, bad))
    pairs = load_pairs(conf)
    assert pairs.size == 39 and pairs.unusable == {"short is empty": 1}
    _file(tmp_path, *[GOOD] * 10, bad)
    with pytest.raises(
        BadInput, match=r"more than 5%, 1 of 11 rows not usable \(short is empty: 1, the first is row 10 of .*\); fix"
    ):
        load_pairs(conf)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"think": "never closed \\boxed{2}"}, "think has no answer after </think>"),
        ({"think": "hm</think> \n"}, "think has no answer after </think>"),
        ({"problem": ["1+1?"]}, "problem is a list, not text"),
        ({"problem": "\ud800"}, "half a surrogate"),
        ({"problem": "What is <short>?"}, "problem contains <short>"),
        ({"problem": "</think>"}, "problem contains </think>"),
        ({"short": ""}, "short is empty"),
        ({"think": None, "short": None}, "think and short are null"),
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
        "answer": "1010",
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


def _one_sided(think: int, short: int, both: int = 0) -> list[dict[str, str | None]]:
    rows: list[dict[str, str | None]] = [{**GOOD, "problem": f"b{i}"} for i in range(both)]
    rows += [{**GOOD, "problem": f"t{i}", "short": None} for i in range(think)]
    return rows + [{**GOOD, "problem": f"s{i}", "think": None} for i in range(short)]


def test_unpaired_rows_are_matched_anew_in_each_epoch(tmp_path: Path) -> None:
    """Two questions take the place of one, and every row comes once in an epoch."""
    pairs = load_pairs(WarmupConf(path=_file(tmp_path, *_one_sided(20, 20))))
    assert pairs.size == 20 and pairs.summary().startswith("0 questions in both modes, 20 only in thinking mode")
    epochs = [[pairs.together(e * 20 + i) for i in range(20)] for e in range(2)]
    for epoch in epochs:
        for long, brief in epoch:
            assert long.short is None and long.think and brief.think is None and brief.short
        assert Counter(pair.problem for places in epoch for pair in places) == Counter(
            [f"{side}{i}" for side in "ts" for i in range(20)]
        )
    assert len({(a.problem, b.problem) for epoch in epochs for a, b in epoch}) > 30
    assert load_pairs(WarmupConf(path=_file(tmp_path, *_one_sided(20, 20)))).together(7) == epochs[0][7]


def test_rows_of_a_mode_that_has_more_are_spread_over_the_epoch(tmp_path: Path) -> None:
    pairs = load_pairs(WarmupConf(path=_file(tmp_path, *_one_sided(30, 10, both=10))))
    assert pairs.size == 40
    modes = [
        (sum(p.think is not None for p in at), sum(p.short is not None for p in at))
        for at in map(pairs.together, range(40))
    ]
    assert Counter(modes) == {(1, 1): 20, (1, 0): 20}
    assert 2 < sum(short for _, short in modes[:20]) < 18  # not all of one mode first


def test_a_warm_up_needs_answers_in_both_modes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none of 3 rows has a short answer, and a warm-up teaches both modes"):
        load_pairs(WarmupConf(path=_file(tmp_path, *_one_sided(3, 0))))


CHAT = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"}]
READY_MADE = [
    ({"problem": "1+1?", "deepseek_reasoning": "hm", "deepseek_solution": "2", "ground_truth_solution": "2"},
     Pair("1+1?", "\nhm\n</think>\n\n2", None)),
    ({"instruction": "1+1?", "output": "<think>\nhm\n</think>\n2"}, Pair("1+1?", "\nhm\n</think>\n2", None)),
    ({"instruction": "1+1?", "output": "<short>\n2"}, Pair("1+1?", None, "2")),
    ({"instruction": "Add.", "input": "1 and 1", "output": "2"}, Pair("Add.\n\n1 and 1", None, "2")),
    ({"messages": CHAT}, Pair("1+1?", "\nhm\n</think>\n\n2", None)),
    ({"messages": [{"role": "system", "content": "Be brief."}, CHAT[0], {"role": "assistant", "content": "2"}]},
     Pair("1+1?", None, "2")),
    ({"messages": [CHAT[0], {"role": "assistant", "content": "2", "reasoning_content": "hm"}]},
     Pair("1+1?", "\nhm\n</think>\n\n2", None)),
    ({"messages": [CHAT[0], {"role": "assistant", "content": "<think>\n\n</think>\n\n2"}]}, Pair("1+1?", None, "2")),
    ({"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value":
      "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n2\n\n<|end_of_solution|>"}]},
     Pair("1+1?", "\nhm\n</think>\n\n2", None)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "wanted"), READY_MADE)
def test_ready_made_answers_are_read_by_their_columns(tmp_path: Path, row: dict[str, Any], wanted: Pair) -> None:
    """Beside a file of pairs, so that both modes are there."""
    other = tmp_path / "ready.jsonl"
    other.write_text(json.dumps(row))
    pairs = load_pairs(WarmupConf(path=[_file(tmp_path, GOOD), str(other)]))
    assert [*pairs.think_only, *pairs.short_only] == [wanted] and not pairs.unusable


def test_a_chat_that_never_closes_its_thinking_is_unusable(tmp_path: Path) -> None:
    chat = {"messages": [CHAT[0], {"role": "assistant", "content": "<think>\nhm"}]}
    with pytest.raises(BadInput, match="thinking is never closed by </think>: 1"):
        load_pairs(WarmupConf(path=_file(tmp_path, chat)))
