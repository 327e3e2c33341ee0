"""Packed attention equals attention over each sequence alone, also in gradients; unsupported arguments are rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conf.schema import FlashAttention
from learner.model.attention import FA3_MODULE, NAME, Layout, choose_flash_attention, packed_attention, register
from rollout.base.errors import BadInput

LENGTHS = st.lists(st.one_of(st.just(1), st.integers(1, 40)), min_size=1, max_size=10)
SCALING = 0.35
HEADS = st.sampled_from([(2, 2), (4, 2), (4, 1)])


def row(lengths: list[int], heads: int, kv_heads: int, seed: int, dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    query, key, value = (
        torch.randn(1, h, n, dim, generator=generator, dtype=torch.float64) for h in (heads, kv_heads, kv_heads)
    )
    return query, key, value


def attention(states: Sequence[Tensor], layout: Layout, **more: Any) -> Tensor:
    """[L, h, D] of (query, key, value)."""
    query, key, value = states
    return packed_attention(None, query, key, value, None, scaling=SCALING, layout=layout, **more)[0]


def alone(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal softmax of one sequence, written out; heads share keys by repetition. [1, h, L, D] -> [L, h, D]"""
    times = query.shape[1] // key.shape[1]
    keys, values = key[0].repeat_interleave(times, 0), value[0].repeat_interleave(times, 0)
    scores = scaling * query[0] @ keys.transpose(1, 2)
    length = scores.shape[-1]
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    unseen = [
        [j > i or (sliding_window is not None and i - j >= sliding_window) for j in range(length)]
        for i in range(length)
    ]
    scores = scores.masked_fill(torch.tensor(unseen, dtype=torch.bool), -torch.inf)
    return (scores.softmax(-1) @ values).transpose(0, 1)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, HEADS, st.integers(0, 10_000), st.none() | st.integers(1, 41), st.sampled_from([None, 0.7]))
def test_a_packed_row_equals_its_sequences_alone(
    lengths: list[int], heads: tuple[int, int], seed: int, window: int | None, cap: float | None
) -> None:
    """With a window that a token sees, with a cap on the scores, with both, with neither."""
    packed = [states.requires_grad_() for states in row(lengths, *heads, seed)]
    single = [states.detach().clone().requires_grad_() for states in packed]
    got = attention(packed, Layout(lengths), sliding_window=window, softcap=cap)
    query, key, value = (states.split(lengths, dim=2) for states in single)
    want = torch.cat([alone(q, k, v, SCALING, window, cap) for q, k, v in zip(query, key, value)])[None]
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    direction = torch.randn(got.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    for a, b in zip(packed, single, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, HEADS, st.integers(0, 10_000), st.data())
def test_one_sequence_never_changes_another(lengths: list[int], heads: tuple[int, int], seed: int, data: Any) -> None:
    """Bitwise, with the perturbed sequence at its most extreme: infinite values and NaN."""
    chosen = data.draw(st.integers(0, len(lengths) - 1))
    states = row(lengths, *heads, seed)
    layout = Layout(lengths)
    before = attention(states, layout)
    start = sum(lengths[:chosen])
    for poison in (1e6, float("inf"), float("nan")):
        poisoned = [s.clone() for s in states]
        for s in poisoned:
            s[:, :, start : start + lengths[chosen]] = poison
        after = attention(poisoned, layout)
        others = torch.ones(sum(lengths), dtype=torch.bool)
        others[start : start + lengths[chosen]] = False
        assert torch.equal(after[0, others], before[0, others])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 1000))
def test_attention_is_causal(lengths: list[int], seed: int) -> None:
    """The last token of each sequence is seen by no other token."""
    states = row(lengths, 2, 2, seed)
    before = attention(states, Layout(lengths))
    last = torch.tensor(lengths).cumsum(0) - 1
    changed = [s.clone() for s in states]
    for s in changed:
        s[:, :, last] += 3.0
    after = attention(changed, Layout(lengths))
    others = torch.ones(sum(lengths), dtype=torch.bool)
    others[last] = False
    assert torch.equal(after[0, others], before[0, others])


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_layout_places_every_token_once_with_little_padding(lengths: list[int]) -> None:
    layout = Layout(lengths)
    places = torch.cat([index[valid] for index, valid in layout.buckets])
    assert sorted(places.tolist()) == list(range(sum(lengths)))
    assert sum(index.numel() for index, _ in layout.buckets) <= 1.3 * sum(lengths) + 8 * len(lengths)
    assert all(int(index.max()) < sum(lengths) for index, _ in layout.buckets)


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 5), {"layout": None}, "Layout"),
        ((1, 6), {}, "Layout"),
        ((2, 5), {}, "one row"),
        ((1, 5), {"mask": torch.zeros(1, 1, 5, 5)}, "mask"),
        ((1, 5), {"dropout": 0.1}, "dropout"),
    ],
    ids=["no layout", "another row's layout", "batch of 2", "mask", "dropout"],
)
def test_unsupported_arguments_are_rejected(shape: tuple[int, int], changes: dict[str, Any], message: str) -> None:
    states = torch.randn(shape[0], 2, shape[1], 4)
    options = {"layout": Layout([3, 2]), "mask": None, "dropout": 0.0, **changes}
    with pytest.raises(ValueError, match=message):
        packed_attention(None, states, states, states, options.pop("mask"), **options)


def policy_row(lengths: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(264, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    positions = torch.cat([torch.arange(n) for n in lengths])
    return ids, positions, positions > 0


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_a_whole_model_keeps_packed_sequences_apart(models: dict[str, str], name: str) -> None:
    """Through every layer: log-probs of a packed row, of the sequences alone, and of transformers' forward agree."""
    from learner.model.policy import load_policy
    from tests.helpers import naive

    policy, plain = load_policy(models[name], "float64"), naive.load(models[name])
    lengths = [9, 1, 2, 30, 9, 31]
    ids, positions, response = policy_row(lengths, 0)
    with torch.no_grad():
        got, entropies = policy(ids, positions, response, Layout(lengths), 0.6, 5)
        start = 0
        for n in lengths:
            part = slice(start, start + n)
            single = (
                policy(ids[part], positions[part], response[part], Layout([n]), 0.6, 100)[0] if n > 1 else got[part]
            )
            table = (plain(ids[None, part]).logits[0] / 0.6).log_softmax(-1)
            want = table[:-1].gather(-1, ids[part][1:, None])[:, 0]
            torch.testing.assert_close(got[part], single, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(got[part][1:], want, rtol=1e-5, atol=1e-6)
            start += n
        ids2 = ids.clone()
        ids2[12:42] = 263 - ids2[12:42]  # the fourth sequence
        after = policy(ids2, positions, response, Layout(lengths), 0.6, 5)[0]
    others = torch.ones(len(ids), dtype=torch.bool)
    others[12:42] = False
    assert torch.equal(after[others], got[others]) and not torch.equal(after, got)
    assert (entropies >= 0).all()


def test_a_forward_pass_without_a_layout_is_rejected(models: dict[str, str]) -> None:
    """A caller that bypasses Policy (transformers' forward, or generate) gets an error instead of leaks."""
    from transformers import AutoModelForCausalLM

    register()
    model = AutoModelForCausalLM.from_pretrained(models["tied"], attn_implementation=NAME)
    with pytest.raises(ValueError, match="Layout"):
        model(torch.zeros(1, 4, dtype=torch.long), use_cache=False)


@pytest.mark.parametrize(
    ("wanted", "capability", "installed", "said"),
    [
        (FlashAttention.fa2, (9, 0), True, "flash attention 2 (learner.flash_attention=fa2)"),
        (FlashAttention.auto, (8, 0), True, "not 3: it needs compute capability 9, this GPU has 8.0"),
        (FlashAttention.auto, (9, 0), False, "not 3: no package has the module flash_attn_interface"),
        (FlashAttention.fa3, (12, 0), True, "it needs compute capability 9, this GPU has 12.0"),
        (FlashAttention.fa3, (9, 0), False, "install flash_attn_3"),
    ],
)
def test_flash_attention_is_chosen_by_gpu_and_package(
    monkeypatch: pytest.MonkeyPatch, wanted: FlashAttention, capability: tuple[int, int], installed: bool, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    if wanted is FlashAttention.fa3:
        with pytest.raises(BadInput, match=r"learner\.flash_attention=fa3: ") as refused:
            choose_flash_attention(wanted)
        assert said in str(refused.value)
    else:
        assert said in choose_flash_attention(wanted)


def test_flash_attention_3_is_what_torch_calls_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU and with a package that pretend to be there, torch looks for the module that we looked for."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with pytest.raises(ModuleNotFoundError, match=FA3_MODULE):
        choose_flash_attention(FlashAttention.auto)
