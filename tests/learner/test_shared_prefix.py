"""A prompt computed once for its siblings: the same log-probs and gradients as every sequence alone, fewer FLOPs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from learner.data.batch import MicroBatch, Sequence
from learner.data.flops import read_shape, work
from learner.data.pack import buckets, pack
from learner.data.shared_prefix import WORTH, order, origins, repeated
from learner.loss import Totals
from learner.metrics.efficiency import efficiency
from learner.model.attention import Layout
from learner.model.policy import load_policy

GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=5)), min_size=1, max_size=5
)


def sequences(groups: list[tuple[int, list[int]]], seed: int) -> list[Sequence]:
    """Groups of (prompt tokens, response tokens of each sibling)."""
    rng = np.random.default_rng(seed)
    found = []
    for number, (size, responses) in enumerate(groups):
        prompt = np.concatenate([[number], rng.integers(0, 264, size - 1)])
        for length in responses:
            ids = np.concatenate([prompt, rng.integers(0, 264, length)]).astype(np.int32)
            values = rng.normal(size=length).astype(np.float32)
            found.append(Sequence(ids, size, values, values, 1.0, values, 0))
    return found


def one_row(groups: list[tuple[int, list[int]]], seed: int = 0) -> MicroBatch:
    found = sequences(groups, seed)
    (row,) = pack(found, Totals(len(found), 1, 1), 100_000, 1).ranks[0]
    return row


@given(GROUPS, st.integers(0, 100))
def test_tokens_share_the_position_with_the_same_prefix(groups: list[tuple[int, list[int]]], seed: int) -> None:
    row = one_row(groups, seed)
    found, shared = origins(row), sum(size * (len(responses) - 1) for size, responses in groups)
    if found is None:
        assert shared <= WORTH * len(row.token_ids) and repeated(row) == 0
        return
    starts = np.repeat(np.cumsum([0, *row.lengths[:-1]]), row.lengths)
    for token, origin in enumerate(found.tolist()):
        before, mine = row.token_ids[starts[origin] : origin + 1], row.token_ids[starts[token] : token + 1]
        assert before.tolist() == mine.tolist() and found[origin] == origin <= token
        assert origin == token or not row.response[token]
    assert repeated(row) == shared > WORTH * len(row.token_ids)


@settings(max_examples=12, deadline=None)
@given(GROUPS, st.integers(0, 100))
def test_sharing_prefixes_changes_neither_log_probs_nor_gradients(
    models: dict[str, str], groups: list[tuple[int, list[int]]], seed: int
) -> None:
    policy, row = load_policy(models["tied"], "float64"), one_row(groups, seed)

    def run(layout: Layout) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        taken: list[torch.Tensor] = []
        policy.watch = taken.append
        tensors = [torch.tensor(a) for a in (row.token_ids, row.position_ids, row.response)]
        logprobs, _ = policy(*tensors, layout, 0.7, 5)
        policy.zero_grad()
        (logprobs * torch.tensor(row.weights)).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None], taken[0]

    whole, shared = run(Layout(list(row.lengths))), run(Layout(list(row.lengths), origins=origins(row)))
    torch.testing.assert_close(shared[0], whole[0], rtol=1e-6, atol=1e-6)  # norms are taken in float32
    torch.testing.assert_close(shared[2], whole[2], rtol=1e-5, atol=1e-7)  # of each token's own last hidden state
    scale = max(float(g.abs().max()) for g in whole[1])
    for got, want in zip(shared[1], whole[1], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_torch_counts_the_flops_saved(models: dict[str, str], checkpointing: bool) -> None:
    """To the FLOP: the layers' products of repeated prompts are not there, attention's are."""
    policy = load_policy(models["tied"], "float32", checkpointing=checkpointing).train()
    shape, row = read_shape(models["tied"]), one_row([(7, [3, 9, 9]), (20, [4, 4])])
    assert shape is not None and repeated(row) == 2 * 7 + 20
    tensors = [torch.tensor(a) for a in (row.token_ids, row.position_ids, row.response)]
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        policy(*tensors, Layout(list(row.lengths), origins=origins(row)), 1.0, 64)[0].sum().backward()
    padded = sum(len(b) * 2 * shape.attention(row.lengths[b[-1]]) for b in buckets(row.lengths))
    halved = sum(map(shape.attention, row.lengths))
    done = work(shape, row.sequences(), checkpointing=checkpointing, repeated=repeated(row))
    assert counted.get_total_flops() == done.hardware + (4 if checkpointing else 3) * (padded - halved)


def test_shared_prompts_are_not_counted_as_work(models: dict[str, str]) -> None:
    shape, found = read_shape(models["tied"]), sequences([(30, [10] * 4)], 0)
    assert shape is not None
    batch = pack(found, Totals(4, 1, 1), 4096, 1)
    shared, whole = (efficiency([batch], shape, 1, 4096, 1.0, [1], shared=one) for one in (True, False))
    assert shared.tflops is not None and whole.tflops is not None
    assert (whole.tflops - shared.tflops) * 1e12 == pytest.approx(4 * shape.linear(3 * 30))


def test_siblings_are_adjacent_where_prompts_are_long() -> None:
    found = sequences([(8, [5, 40, 9]), (8, [30, 6])], 0)
    assert [len(found[i]) - 8 for i in order(found)] == [40, 9, 5, 30, 6]
    light = sequences([(2, [50, 90, 70]), (2, [80, 60])], 0)
    assert WORTH * sum(map(len, light)) >= 3 * 2
    assert [len(light[i]) - 2 for i in order(light)] == [90, 80, 70, 60, 50]


def test_sequence_parallel_rows_cannot_share_prefixes() -> None:
    row: Any = one_row([(4, [2, 2])])
    with pytest.raises(ValueError, match="sequence parallelism"):
        Layout(list(row.lengths), "cpu", 0, 2, None, origins(row))
