"""Packing: every sequence once and unchanged, within the budget, as many rows on every rank, balanced cost."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.data.batch import MicroBatch, Sequence, TrainBatch
from learner.data.flops import Cost, Shape, tokens_only
from learner.data.pack import balanced, buckets, pack, packing
from learner.loss import Totals
from learner.model.attention import Layout

TOTALS = Totals(7, 100, 107)
QWEN = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, ffn=8960, vocab=151936)


def steep(tokens: int, responses: int) -> int:
    """Attention and nothing else."""
    return tokens * tokens


costs = st.sampled_from([tokens_only, steep, QWEN.cost])


@st.composite
def some_sequences(draw: st.DrawFn, least: int = 0) -> list[Sequence]:
    """Sequences whose every entry is unique, so that a value that went astray is found."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=least, max_size=25))
    sequences, serial = [], 1
    for prompt, response in shapes:
        ids = np.arange(serial, serial + prompt + response, dtype=np.int32)
        at = ids[prompt:].astype(np.float32)
        mode = draw(st.sampled_from([0, 0.5, 1, -1]))
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
@given(some_sequences(), st.integers(50, 200), st.integers(1, 5), costs)
def test_every_sequence_is_packed_once_within_the_budget(
    sequences: list[Sequence], max_tokens: int, ranks: int, cost: Cost
) -> None:
    batch = pack(sequences, TOTALS, max_tokens, ranks, cost)
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


def spent(batch: TrainBatch, cost: Cost) -> list[int]:
    return [sum(cost(*one) for mb in rank if not idle(mb) for one in mb.sequences()) for rank in batch.ranks]


@settings(max_examples=100, deadline=None)
@given(some_sequences(least=1), st.integers(1, 6), costs)
def test_ranks_differ_by_at_most_the_costliest_sequence(sequences: list[Sequence], ranks: int, cost: Cost) -> None:
    """The ranks' costs differ by at most the costliest sequence."""
    each = [cost(len(s), len(s) - s.prompt_tokens) for s in sequences]
    loads = spent(pack(sequences, TOTALS, 10_000, ranks, cost), cost)
    assert sum(loads) == sum(each)
    assert max(loads) - min(loads) <= max(each)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(2, 3))
def test_balancing_is_within_the_bound_of_the_best_division(costs: list[int], parts: int) -> None:
    """Michiels et al. 2007: the costliest part is at most 4/3 - 1/(3 parts) of the best division's."""
    found = balanced(costs, parts)
    assert sorted(i for part in found for i in part) == list(range(len(costs)))
    best = min(
        max(sum(c for c, p in zip(costs, places, strict=True) if p == part) for part in range(parts))
        for places in product(range(parts), repeat=len(costs))
    )
    assert 3 * parts * max(sum(costs[i] for i in part) for part in found) <= (4 * parts - 1) * best


def made(lengths: list[int], prompt: int = 50) -> list[Sequence]:
    zeros = {n: np.zeros(n - prompt, np.float32) for n in lengths}
    return [
        Sequence(np.zeros(n, np.int32), prompt, zeros[n] + 1, zeros[n] + 1, 1.0, zeros[n], i % 2)
        for i, n in enumerate(lengths)
    ]


def differencing(costs: list[int], parts: int) -> list[list[int]]:
    """Largest differencing as the paper words it (Karmarkar and Karp 1982), on tuples of whole numbers."""
    divisions = [
        [(costs[i], [i])] + [(0, [])] * (parts - 1) for i in sorted(range(len(costs)), key=lambda i: -costs[i])
    ]
    while len(divisions) > 1:
        divisions.sort(key=lambda division: division[-1][0] - division[0][0])  # stable: of equal gaps the oldest
        one, other, *divisions = divisions
        joined = [(a + b, left + right) for (a, left), (b, right) in zip(one, reversed(other), strict=True)]
        divisions.append(sorted(joined, key=lambda part: -part[0]))
    return [sorted(part) for _, part in divisions[0]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 4), st.integers(1, 10**14)), min_size=1, max_size=40), st.integers(2, 9))
def test_balancing_equals_largest_differencing(costs: list[int], parts: int) -> None:
    """The arrays with joins followed back give the divisions that plain tuples give, ties included."""
    assert balanced(costs, parts) == differencing(costs, parts)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("place", [0, 100, 400])
def test_one_long_answer_gets_a_rank_to_itself(ranks: int, place: int) -> None:
    """It has a rank to itself when it costs more than the others can share; those are even. No rank has more rows."""
    lengths = [100] * 400
    lengths.insert(place, 24_000)
    sequences = made(lengths)
    batch = pack(sequences, TOTALS, 24_576, ranks, QWEN.cost)
    alone, short = QWEN.cost(24_000, 23_950), QWEN.cost(100, 50)
    fair = (alone + 400 * short) / ranks
    loads = sorted(spent(batch, QWEN.cost))
    assert loads[-1] <= max(alone, fair + short)
    others = loads[:-1] if alone > fair else loads
    assert others[-1] - others[0] <= short
    assert packing([batch], 24_576, QWEN.cost).imbalance <= max(1.0, alone / fair) * 1.01
    assert len({len(rank) for rank in batch.ranks}) == 1


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_heavy_tailed_lengths_are_balanced_by_cost(ranks: int) -> None:
    """Heavy-tailed lengths, as reasoning has them: within 1 % by FLOPs, where balancing tokens is not."""
    rng = np.random.default_rng(5)
    lengths = [int(n) for n in np.clip(rng.lognormal(8, 1, 512), 100, 24_576)]
    fair, by_tokens = (
        packing([pack(made(lengths), TOTALS, 24_576, ranks, cost)], 24_576, QWEN.cost).imbalance
        for cost in (QWEN.cost, tokens_only)
    )
    assert fair < 1.01 and fair <= by_tokens
    assert ranks < 16 or by_tokens > 1.02


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_buckets_are_those_of_attentions_padding(lengths: list[int]) -> None:
    padded = [tuple(index.shape) for index, _ in Layout(lengths).buckets]
    assert [(len(bucket), lengths[bucket[-1]]) for bucket in buckets(lengths)] == padded


def test_packing_quality_equals_the_one_worked_out_by_hand() -> None:
    """Two steps on two ranks, counted by hand: rows of 100, lengths 60, 55 (60 | 55) and then 90 alone."""
    first, second = (pack(made(lengths), TOTALS, 100, 2) for lengths in ([60, 55], [90]))
    found = packing([first, second], 100)
    assert found.fill == (60 + 55 + 90 + 2) / 400  # an idle row has two tokens
    assert found.imbalance == (60 + 90) / ((60 + 55) / 2 + (90 + 2) / 2)
    assert found.padding == 0
    together = packing([pack(made([60, 70, 100]), TOTALS, 300, 1)], 300)
    assert together.padding == 1 - 230 / (2 * 70 + 100) and together.imbalance == 1
    nothing = packing([pack([], TOTALS, 100, 2)], 100)
    assert (nothing.padding, nothing.fill, nothing.imbalance) == (0, 1, 1)


@settings(max_examples=100, deadline=None)
@given(some_sequences(least=1), st.integers(50, 200))
def test_the_number_of_rows_is_within_first_fits_bound(sequences: list[Sequence], max_tokens: int) -> None:
    """First-fit decreasing: at most 11/9 of the least possible number of rows, plus one."""
    total = sum(map(len, sequences))
    most = min(len(sequences), 2 * total / max_tokens + 1)  # what first-fit guarantees against the tokens alone
    assert -(-total // max_tokens) <= len(pack(sequences, TOTALS, max_tokens, 1).ranks[0]) <= most


@settings(max_examples=50, deadline=None)
@given(some_sequences(), st.integers(50, 120), st.integers(1, 4), costs)
def test_packing_is_deterministic(sequences: list[Sequence], max_tokens: int, ranks: int, cost: Cost) -> None:
    one, two = (pack(list(sequences), TOTALS, max_tokens, ranks, cost) for _ in range(2))
    assert [mb.token_ids.tolist() for mb in rows(one)] == [mb.token_ids.tolist() for mb in rows(two)]


@given(some_sequences(least=1), st.integers(1, 3))
def test_the_token_budget_is_exact(sequences: list[Sequence], ranks: int) -> None:
    """A budget of exactly the longest sequence works; one token less is refused, and the message says what to do."""
    longest = max(map(len, sequences))
    assert pack(sequences, TOTALS, longest, ranks).tokens == sum(map(len, sequences))
    with pytest.raises(ValueError, match=rf"{longest} tokens exceeds learner.max_tokens={longest - 1}"):
        pack(sequences, TOTALS, longest - 1, ranks)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 9), st.integers(1, 4)), min_size=1, max_size=20), st.integers(1, 4))
def test_siblings_stay_together(prompts: list[tuple[int, int]], ranks: int) -> None:
    """Each prompt on one rank with all of its sequences, and ranks no further apart than the costliest prompt."""
    sequences = [
        Sequence(np.array([*[p] * size, *range(1, s + 2)]), size, z := np.ones(s + 1, np.float32), z, 0.0, z, -1)
        for p, (size, siblings) in enumerate(prompts)
        for s in range(siblings)
    ]
    batch = pack(sequences, TOTALS, 10_000, ranks, tokens_only, siblings_together=True)
    seen: dict[int, set[int]] = {}
    loads, count = [0] * ranks, 0
    for rank, mbs in enumerate(batch.ranks):
        for mb in mbs:
            if mb.weights.any():
                loads[rank] += sum(mb.lengths)
                count += len(mb.lengths)
                for part in parts(mb):
                    seen.setdefault(int(mb.token_ids[part.start]), set()).add(rank)
    assert count == len(sequences) and set(seen) == set(range(len(prompts)))
    assert all(len(ranks_of) == 1 for ranks_of in seen.values())
    each = [sum(size + s + 1 for s in range(siblings)) for size, siblings in prompts]
    assert max(loads) - min(loads) <= max(each)
