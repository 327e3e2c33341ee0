"""Laws of the prompt stream: resumes where it stood; shards partition; a draw depends on data, seed and number only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import ArithmeticConf, DataConf
from rollout.base.errors import BadInput
from rollout.data.problems import Problem
from rollout.data.stream import PATIENCE, PromptStream, as_prompts
from rollout.prompt import Prompt

ROWS = [Problem(f"set/{i}", "x" * (i + 1), str(i), "set", level="1") for i in range(10)]
CONF = DataConf()


def encode(problem: str) -> np.ndarray:
    return np.frombuffer(problem.encode(), dtype=np.uint8).astype(np.int32)


def stream(rows: Sequence[Problem] | None = ROWS, conf: DataConf = CONF, seed: int = 0) -> PromptStream:
    return PromptStream(rows, encode, conf, seed)


def uids(prompts: list[Prompt]) -> list[str]:
    return [p.uid for p in prompts]


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows", "generated"])
@settings(max_examples=40, deadline=None)
@given(
    before=st.integers(0, 35), after=st.integers(1, 35), limit=st.sampled_from([4, 9, 1024]), shards=st.integers(1, 3)
)
def test_a_restored_stream_continues_where_it_stood(
    rows: list[Problem] | None, before: int, after: int, limit: int, shards: int
) -> None:
    conf = replace(CONF, max_prompt_tokens=limit if rows else 1024, num_shards=shards, shard=shards - 1)
    one, other = stream(rows, conf), stream(rows, conf)
    one.take(before)
    other.restore(json.loads(json.dumps(one.state())))
    assert other.counts == one.counts
    expected, got = one.take(after), other.take(after)
    assert uids(got) == uids(expected)
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(got, expected, strict=True))
    assert other.state() == one.state()


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows", "generated"])
def test_prompts_do_not_depend_on_how_many_are_taken_at_once(rows: list[Problem] | None) -> None:
    at_once, in_bits = stream(rows), stream(rows)
    assert uids(at_once.take(31)) == [uid for n in (0, 1, 7, 3, 20) for uid in uids(in_bits.take(n))]


@pytest.mark.parametrize("shards", [1, 2, 3, 10])
def test_shards_partition_every_epoch(shards: int) -> None:
    taken = []
    for shard in range(shards):
        part = stream(conf=replace(CONF, shard=shard, num_shards=shards))
        size = len(ROWS[shard::shards])
        epochs = [uids(part.take(size)) for _ in range(3)]
        assert part.epoch == 3
        assert len({frozenset(uid.split("#")[0] for uid in epoch) for epoch in epochs}) == 1  # the same rows for ever
        taken += epochs[1]
    assert sorted(taken) == sorted(f"{p.uid}#e1" for p in ROWS)


def test_shards_of_the_generated_task_partition_it() -> None:
    whole = uids(stream(None).take(30))
    parts = [uids(stream(None, replace(CONF, shard=s, num_shards=3)).take(10)) for s in range(3)]
    assert [uid for trio in zip(*parts, strict=True) for uid in trio] == whole


def test_epochs_are_reshuffled_complete_and_unique() -> None:
    taken = uids(stream().take(50))
    epochs = [taken[i : i + 10] for i in range(0, 50, 10)]
    assert len(set(taken)) == 50
    assert all(sorted(e) == sorted(f"{p.uid}#e{n}" for p in ROWS) for n, e in enumerate(epochs))
    assert len({tuple(uid.split("#")[0] for uid in epoch) for epoch in epochs}) > 1
    assert uids(stream(seed=1).take(10)) != epochs[0]
    plain = uids(stream(conf=replace(CONF, shuffle=False)).take(20))
    assert plain == [f"{p.uid}#e{n}" for n in (0, 1) for p in ROWS]


def test_a_prompt_carries_its_problem() -> None:
    rows = [Problem("s/0", "abc", ("1", "2"), "s", "5", all_answers=True)]
    prompt = stream(rows).take(1)[0]
    assert (prompt.uid, prompt.problem, prompt.answer, prompt.source) == ("s/0#e0", "abc", ("1", "2"), "s")
    assert (prompt.level, prompt.all_answers) == ("5", True) and prompt.token_ids.dtype == np.int32
    assert prompt.token_ids.tolist() == [97, 98, 99]


def test_each_row_is_tokenized_once() -> None:
    calls: Counter[str] = Counter()

    def counted(problem: str) -> np.ndarray:
        calls[problem] += 1
        return encode(problem)

    lazy = PromptStream(ROWS, counted, CONF, 0)
    assert not calls
    lazy.take(25)
    assert set(calls.values()) == {1}


def test_too_long_prompts_are_dropped_and_counted() -> None:
    limited = stream(conf=replace(CONF, max_prompt_tokens=7))
    assert {p.problem for p in limited.take(14)} == {p.problem for p in ROWS[:7]}
    limited.take(7)
    assert limited.counts["taken"] == 21
    assert limited.counts["too_long"] >= 6 and limited.position == 21 + limited.counts["too_long"]


def test_one_short_row_among_long_ones_is_always_found() -> None:
    for seed in range(20):
        assert [p.problem for p in stream(conf=replace(CONF, max_prompt_tokens=1), seed=seed).take(5)] == ["x"] * 5


@pytest.mark.parametrize(("rows", "draws"), [(ROWS, 19), (None, PATIENCE)], ids=["rows", "generated"])
def test_a_set_of_only_too_long_prompts_is_an_error(rows: list[Problem] | None, draws: int) -> None:
    none = stream(rows, replace(CONF, max_prompt_tokens=0))
    with pytest.raises(BadInput, match=r"every prompt is longer than data.max_prompt_tokens=0"):
        none.take(1)
    assert none.counts["too_long"] == draws


def test_the_state_of_other_data_is_rejected() -> None:
    state = stream().state()
    for other, what in (
        (stream(ROWS[:9]), "data"),
        (stream([*ROWS[:9], replace(ROWS[9], answer="x")]), "data"),
        (stream(None), "data"),
        (stream(seed=1), "seed"),
        (stream(conf=replace(CONF, num_shards=2)), "num_shards"),
        (stream(conf=replace(CONF, shuffle=False)), "shuffle"),
    ):
        with pytest.raises(BadInput, match=f"{what} was .*resume with the saved data"):
            other.restore(state)
    weights = ArithmeticConf(levels=[2, 3], weights=[0.5, 0.5])
    with pytest.raises(BadInput, match="data was"):
        stream(None, replace(CONF, arithmetic=weights)).restore(stream(None).state())


@pytest.mark.parametrize("damage", [{"position": None}, {"position": -1}, {"counts": 3}])
def test_a_damaged_state_is_rejected(damage: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="damaged"):
        stream().restore({**stream().state(), **damage})
    with pytest.raises(BadInput, match="data was None"):
        stream().restore({})


def test_a_shard_without_rows_is_rejected() -> None:
    with pytest.raises(BadInput, match=r"data.shard=10 of 11 is empty"):
        stream(conf=replace(CONF, shard=10, num_shards=11))


def test_as_prompts_keeps_order_and_counts_the_dropped() -> None:
    prompts, dropped = as_prompts(ROWS, encode, 4)
    assert uids(prompts) == [p.uid for p in ROWS[:4]] and dropped == 6
