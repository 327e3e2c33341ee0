"""Packing: nothing lost, doubled or shifted; the budget kept; every rank the same number of rows; loads balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch import MicroBatch, Sequence, TrainBatch
from learner.loss import Totals
from learner.pack import pack

TOTALS = Totals(7, 100, 107)


@st.composite
def some_sequences(draw: st.DrawFn, least: int = 0) -> list[Sequence]:
    """Sequences whose every entry is unique, so that a value that went astray is found."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=least, max_size=25))
    sequences, serial = [], 1
    for prompt, response in shapes:
        ids = np.arange(serial, serial + prompt + response, dtype=np.int32)
        at = ids[prompt:].astype(np.float32)
        mode = draw(st.sampled_from([0, 1, -1]))
        sequences.append(Sequence(ids, prompt, at + 0.25, at + 0.5, float(serial) + 0.125, at + 0.75, mode))
        serial += prompt + response
    return sequences


def rows(batch: TrainBatch) -> list[MicroBatch]:
    return [mb for rank in batch.ranks for mb in rank]


def parts(mb: MicroBatch) -> list[slice]:
    ends = np.cumsum(mb.lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, mb.lengths, strict=True)]


def idle(mb: MicroBatch) -> bool:
    return not mb.kl_weights.any()


@settings(max_examples=150, deadline=None)
@given(some_sequences(), st.integers(50, 200), st.integers(1, 5))
def test_laws(sequences: list[Sequence], max_tokens: int, ranks: int) -> None:
    batch = pack(sequences, TOTALS, max_tokens, ranks)
    assert batch.totals is TOTALS
    assert (batch.sequences, batch.tokens) == (len(sequences), sum(map(len, sequences)))
    assert len(batch.ranks) == ranks and len({len(rank) for rank in batch.ranks}) == 1
    assert batch.empty == (not sequences) and (batch.empty == (not batch.ranks[0]))
    by_first = {int(s.token_ids[0]): s for s in sequences}
    seen: Counter[int] = Counter()
    for mb in rows(batch):
        n = len(mb.token_ids)
        assert n == sum(mb.lengths) <= max_tokens
        arrays = (mb.position_ids, mb.response, mb.control, mb.modes, mb.weights, mb.kl_weights, mb.advantages)
        assert all(array.shape == (n,) for array in (*arrays, mb.behavior_logprobs))
        if idle(mb):
            continue
        for part in parts(mb):
            sequence = by_first[int(mb.token_ids[part.start])]
            seen[int(mb.token_ids[part.start])] += 1
            p = sequence.prompt_tokens
            assert mb.token_ids[part].tolist() == sequence.token_ids.tolist()
            assert mb.position_ids[part].tolist() == list(range(len(sequence)))
            assert mb.response[part].tolist() == [i >= p for i in range(len(sequence))]
            assert mb.control[part].tolist() == [i == p for i in range(len(sequence))]
            for packed, given_ in (
                (mb.weights, sequence.weights),
                (mb.kl_weights, sequence.kl_weights),
                (mb.behavior_logprobs, sequence.behavior_logprobs),
                (mb.advantages, np.full(len(sequence) - p, sequence.advantage, np.float32)),
                (mb.modes, np.full(len(sequence) - p, sequence.mode)),
            ):
                assert not packed[part][:p].any()
                assert packed[part][p:].tolist() == given_.tolist()
    assert seen == Counter(by_first.keys())


@settings(max_examples=100, deadline=None)
@given(some_sequences(least=1), st.integers(50, 120), st.integers(2, 5))
def test_idle_rows_weigh_nothing(sequences: list[Sequence], max_tokens: int, ranks: int) -> None:
    """They exist only to make up the number, are tiny, and never ask for a sequence's first token."""
    batch = pack(sequences, TOTALS, max_tokens, ranks)
    for mb in rows(batch):
        assert not mb.response[0]
        if idle(mb):
            assert len(mb.token_ids) <= 2 and mb.response.any()
            assert not mb.weights.any() and not mb.advantages.any() and not mb.behavior_logprobs.any()
    assert any(all(not idle(rank[m]) for rank in [rank]) for rank in batch.ranks for m in range(len(rank)))


@settings(max_examples=100, deadline=None)
@given(some_sequences(least=1), st.integers(1, 6))
def test_balance(sequences: list[Sequence], ranks: int) -> None:
    """Longest-first: loads differ by at most the longest sequence."""
    batch = pack(sequences, TOTALS, 10_000, ranks)
    loads = [sum(sum(mb.lengths) for mb in rank if not idle(mb)) for rank in batch.ranks]
    assert sum(loads) == sum(map(len, sequences))
    assert max(loads) - min(loads) <= max(map(len, sequences))


@settings(max_examples=100, deadline=None)
@given(some_sequences(least=1), st.integers(50, 200))
def test_few_rows(sequences: list[Sequence], max_tokens: int) -> None:
    """First-fit decreasing: at most 11/9 of the least possible number of rows, plus one."""
    total = sum(map(len, sequences))
    most = min(len(sequences), 2 * total / max_tokens + 1)  # what first-fit guarantees against the tokens alone
    assert -(-total // max_tokens) <= len(pack(sequences, TOTALS, max_tokens, 1).ranks[0]) <= most


@settings(max_examples=50, deadline=None)
@given(some_sequences(), st.integers(50, 120), st.integers(1, 4))
def test_deterministic(sequences: list[Sequence], max_tokens: int, ranks: int) -> None:
    one, two = (pack(list(sequences), TOTALS, max_tokens, ranks) for _ in range(2))
    assert [mb.token_ids.tolist() for mb in rows(one)] == [mb.token_ids.tolist() for mb in rows(two)]


@given(some_sequences(least=1), st.integers(1, 3))
def test_budget_is_kept_to_the_token(sequences: list[Sequence], ranks: int) -> None:
    """A budget of exactly the longest sequence works; one token less is refused, and the message says what to do."""
    longest = max(map(len, sequences))
    assert pack(sequences, TOTALS, longest, ranks).tokens == sum(map(len, sequences))
    with pytest.raises(ValueError, match=rf"{longest} tokens exceeds learner.max_tokens={longest - 1}"):
        pack(sequences, TOTALS, longest - 1, ranks)
