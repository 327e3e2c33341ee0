"""Laws that hold for any number of modes: their places, their tokens, rewards, caps, format, answers, served text."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import ModelConf, RewardConf, WarmupConf
from reward.grade import think_token_in_ids, think_token_in_text
from reward.reward_function import reward
from reward.verdict import Outcome
from rollout.base.errors import BadInput
from rollout.convert import engine_requests
from rollout.data.pair_file import Pair, PairFile
from rollout.data.pairs import load_pairs
from rollout.data.tokens import (
    build_character_tokenizer,
    check_alignment,
    control_tokens,
    load_tokenizer,
    save_tokenizer,
    templated,
)
from rollout.mode import MODES, Mode, modes_of, names_of_tokens, think_names
from rollout.request import RolloutRequest, SamplingParams
from tests.helpers.prompts import make_prompts

NAMES = [["short", "think"], ["short", "medium", "think"], ["short", "low", "high", "think"]]


@pytest.fixture(params=NAMES, ids=len)
def names(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture
def tokenizer(names: list[str], tmp_path: Path) -> Iterator[Any]:
    build_character_tokenizer(tmp_path / "model", ModelConf(modes=names))
    yield load_tokenizer(tmp_path / "model", ModelConf(modes=names))


def test_modes_are_in_order_and_equal_after_a_journey(names: list[str]) -> None:
    modes = modes_of(names)
    assert [mode.name for mode in modes] == names and (modes[0], modes[-1]) == MODES
    assert [mode.effort for mode in modes] == pytest.approx(np.linspace(0, 1, len(names)))
    assert pickle.loads(pickle.dumps(modes)) == modes and len({*modes}) == len(names)
    assert [mode.thinks for mode in modes] == [False] + [True] * (len(names) - 1)


def test_each_mode_has_one_token_of_its_own_and_those_of_two_stay(names: list[str], tokenizer: Any) -> None:
    conf = ModelConf(modes=names)
    check_alignment(tokenizer, conf)
    control = control_tokens(tokenizer, conf)
    assert (control.think, control.think_end, control.short, control.eos) == (4, 5, 6, 1)
    assert [*control.modes] == [*modes_of(names)] and len({*control.modes.values()}) == len(names)
    for mode, token in names_of_tokens(conf).items():
        assert tokenizer.convert_tokens_to_ids(token) == control.id_of(mode)
        assert control.mode_of(control.id_of(mode)) == mode
    assert control.mode_of(5) is None and {*control.openers} == {*control.modes.values()} - {6}


def test_a_right_answer_earns_more_the_cheaper_its_mode(names: list[str]) -> None:
    modes, conf = modes_of(names), RewardConf()
    earned = [reward(conf, Outcome.CORRECT, mode) for mode in modes]
    assert earned == pytest.approx(np.linspace(1, 0.5, len(names))) and (earned[0], earned[-1]) == (1.0, 0.5)
    assert {reward(conf, Outcome.WRONG, mode) for mode in modes} == {-1.0}
    given = [0.9 - 0.1 * place for place in range(len(names) - 2)]
    own = RewardConf(correct_between=given)
    assert [reward(own, Outcome.CORRECT, mode) for mode in modes] == [1.0, *given, 0.5]


def test_each_mode_has_its_own_cap(names: list[str], tokenizer: Any) -> None:
    """In rewards, and while sampling: of a chosen mode by its first token, of a forced one at once."""
    modes, between = modes_of(names), [20 + place for place in range(len(names) - 2)]
    caps = [10, *between, 60]
    conf = RewardConf(max_tokens_short=10, max_tokens_between=between, max_tokens_think=60, cut_off=-0.7)
    for mode, cap in zip(modes, caps, strict=True):
        assert reward(conf, Outcome.CORRECT, mode, cap) > 0 > reward(conf, Outcome.CORRECT, mode, cap + 1) == -0.7
    control = control_tokens(tokenizer, ModelConf(modes=names))

    def asked(mode: Mode | None) -> Any:
        sampling = SamplingParams(1.0, 1.0, 100, mode, 10, 60, tuple(between))
        return engine_requests(RolloutRequest(0, 0, 0, tuple(make_prompts(1)), ((0, 0),), sampling), control, 0)[0]

    assert asked(None).caps == dict(zip(control.modes.values(), caps, strict=True))
    assert [asked(mode).max_tokens for mode in modes] == [cap - 1 for cap in caps]
    assert reward(RewardConf(max_tokens_short=1, max_tokens_think=1), Outcome.CORRECT, Mode("medium", 0.5), 9) == 0.75


def test_an_answer_that_begins_to_think_again_has_the_wrong_format(names: list[str], tokenizer: Any) -> None:
    conf = ModelConf(modes=names)
    control, tokens = control_tokens(tokenizer, conf), names_of_tokens(conf)
    openers = [token for mode, token in tokens.items() if mode.thinks]
    for mode, token in tokens.items():
        fine = "\\boxed{1}" if mode == Mode.SHORT else "a</think>\\boxed{1}"
        for text, there in ((fine, False), *((fine + opener, True) for opener in openers)):
            ids = np.array(tokenizer.encode(token + text, add_special_tokens=False), np.int32)
            assert think_token_in_ids(ids, mode, control) is there
            assert think_token_in_text(text, mode, think_names(conf)) is there


# ---------------------------------------------------------------- warm-up


def test_generated_answers_write_their_modes_share_of_the_steps(names: list[str]) -> None:
    conf = ModelConf(modes=names)
    modes, pairs, plain = modes_of(names), load_pairs(WarmupConf(steps=1), conf), load_pairs(WarmupConf(steps=1))
    for index in range(40):
        pair, known = pairs.at(index), plain.at(index)
        answers = dict(pair.answers(modes))
        assert [*answers] == [*reversed(modes)]
        assert (answers[Mode.THINK], answers[Mode.SHORT]) == (known.think, known.short)
        lengths = [len(answers[mode]) for mode in modes]
        assert lengths == sorted(lengths) and all(text.endswith(str(known.short)) for text in answers.values())
        if len(names) == 3:
            assert answers[modes[1]] == str(known.think).partition("?")[0] + "</think>" + str(known.short)
    assert len(names) > 2 or pairs.at(0).line() == plain.at(0).line()


def test_pairs_of_a_file_may_have_answers_between(tmp_path: Path) -> None:
    path, conf = tmp_path / "pairs.jsonl", ModelConf(modes=NAMES[1])
    path.write_text(
        '{"problem": "1+1?", "think": "a b</think>2", "short": "2", "medium": "<medium>a</think>2"}\n'
        '{"problem": "1+2?", "think": "c</think>3", "short": "3", "medium": null}\n'
    )
    warmup = WarmupConf(path=str(path))
    found = load_pairs(warmup, conf)
    rows = sorted((found.at(i) for i in range(2)), key=lambda pair: pair.problem)
    assert [dict(pair.between) for pair in rows] == [{"medium": "a</think>2"}, {}]
    assert found.sha256() != load_pairs(warmup).sha256()  # which does not read that column
    with pytest.raises(BadInput, match=r"none of 2 rows has a large answer, .* give such answers in a column large"):
        load_pairs(warmup, ModelConf(modes=["short", "large", "think"]))


def test_a_pair_comes_back_from_the_file_as_it_was() -> None:
    pairs = [
        Pair("p", "t", "s"), Pair("p", "t", "s", ("1", "2"), "3"), Pair("p", None, "s", between={"m": "x"}),
        Pair("p", "t", None, "1", None, {"m": "x", "n": "y"}),
    ]  # fmt: skip
    kept = PairFile()
    for pair in pairs:
        kept.append(pair)
    assert [*kept] == pairs and pairs[0].line() == b'["p", "t", "s"]\n'


# ---------------------------------------------------------------- a served model


def test_a_client_may_ask_for_every_mode_and_reads_its_reasoning(
    names: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    from orchestrator.chat.session import REFUSAL
    from rollout.reasoning_parser import ThinklessParser

    conf = ModelConf(modes=names)
    save_tokenizer(tokenizer, tmp_path / "served", conf)
    served = load_tokenizer(tmp_path / "served", conf)
    free = templated(served, "q")
    for mode, token in names_of_tokens(conf).items():
        assert templated(served, "q", mode=mode.name) == free + token
        wanted = ("ab", "c") if mode.thinks else (None, "ab</think>c")
        chosen, given = (ThinklessParser(served, chat_template_kwargs=k) for k in ({}, {"mode": mode.name}))
        assert chosen.extract_reasoning(f"{token}ab</think>c", None) == wanted
        assert given.extract_reasoning("ab</think>c", None) == wanted
        ids = served.encode(f"{token}ab", add_special_tokens=False)
        assert chosen.count_reasoning_tokens(ids) == (2 if mode.thinks else 0)
    with pytest.raises(Exception, match=r"mode must be auto, think.* or short, got huge") as refused:
        templated(served, "q", mode="huge")
    said = REFUSAL.search(str(refused.value))
    assert said is not None and ["short", *reversed(said[1].split(", "))] == names
