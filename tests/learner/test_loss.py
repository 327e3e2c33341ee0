"""Token weights and the clipped surrogate: golden values, and naive float64 loops over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.loss import Totals, degrpo, grpo, sft
from learner.loss.surrogate import TokenLosses, policy_losses

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=12)  # T_i + 1
FORMS = st.sampled_from(["paper", "code"])


def totals_of(lengths: list[int], dropped: int = 0) -> Totals:
    """`dropped`: trajectories that count in N alone."""
    return Totals(len(lengths) + dropped, max(1, sum(lengths) - len(lengths)), sum(lengths))


def test_golden_values_of_the_reference_code() -> None:
    """Ratio 1, alpha 0.1, two sequences of three tokens in one batch (thinkless.md)."""
    advantages = torch.tensor([[1.0, 2.0, 2.0], [3.0, 4.0, 4.0]])
    totals = Totals(trajectories=2, response_tokens=4, tokens=6)
    weights = torch.stack([torch.tensor(degrpo.token_weights(3, totals, 0.1, "code"))] * 2)
    logprobs = torch.tensor([[-0.3, -1.0, -2.0], [-0.1, -4.0, -0.5]], requires_grad=True)
    flat = [tensor.flatten() for tensor in (advantages, weights, weights)]
    losses = policy_losses(logprobs.flatten(), logprobs.detach().flatten(), None, *flat, clip=0.2, max_log_ratio=10.0)
    loss = losses.surrogate.sum()
    loss.backward()
    assert loss.item() == pytest.approx(-3.2, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad[0, 0].item() == pytest.approx(-0.05, rel=1e-6)
    assert logprobs.grad[0, 1].item() == pytest.approx(-0.5, rel=1e-6)
    assert logprobs.grad[1].tolist() == pytest.approx([-0.15, -1.0, -1.0], rel=1e-6)
    assert not losses.kl.any() and not losses.clipped.any()


@given(LENGTHS, FORMS, st.floats(1e-4, 10), st.integers(0, 5))
def test_degrpo_weights(lengths: list[int], form: str, alpha: float, dropped: int) -> None:
    """w_0 = alpha / N; w_t = 1 / (N T_i) or 1 / sum T; nothing after t = 0 when T_i = 0."""
    totals, N = totals_of(lengths, dropped), len(lengths) + dropped
    sum_T = sum(length - 1 for length in lengths)
    control = response = 0.0
    for length in lengths:
        weights = degrpo.token_weights(length, totals, alpha, form)
        assert weights.shape == (length,) and weights.dtype == np.float32
        T = length - 1
        want = [alpha / N]
        for _ in range(T):
            want.append(1 / (N * T) if form == "paper" else 1 / sum_T)
        np.testing.assert_allclose(weights, want, rtol=1e-6)
        control += float(weights[0])
        response += float(weights[1:].astype(np.float64).sum())
    assert control == pytest.approx(alpha * len(lengths) / N, rel=1e-5)
    with_response = sum(length > 1 for length in lengths)
    assert response == pytest.approx(with_response / N if form == "paper" else float(sum_T > 0), rel=1e-5)


@given(LENGTHS, FORMS)
def test_grpo_weights(lengths: list[int], form: str) -> None:
    """1 / (N (T_i + 1)) or 1 / sum(T + 1), control token included: sums to 1 either way."""
    totals, total = totals_of(lengths), 0.0
    for length in lengths:
        weights = grpo.token_weights(length, totals, form)
        want = 1 / (len(lengths) * length) if form == "paper" else 1 / sum(lengths)
        np.testing.assert_allclose(weights, [want] * length, rtol=1e-6)
        total += float(weights.astype(np.float64).sum())
    assert total == pytest.approx(1.0, rel=1e-5)


@given(LENGTHS)
def test_sft_weights_are_the_token_mean(lengths: list[int]) -> None:
    weights = np.concatenate([sft.token_weights(length, totals_of(lengths)) for length in lengths])
    np.testing.assert_allclose(weights, np.full(sum(lengths), 1 / sum(lengths)), rtol=1e-6)


@given(LENGTHS, st.floats(1e-4, 10))
def test_the_control_token_weighs_the_same_however_long_the_answer(lengths: list[int], alpha: float) -> None:
    """What DeGRPO is for; under GRPO (paper form) it shrinks as 1 / (T + 1)."""
    totals = totals_of(lengths)
    for form in ("paper", "code"):
        assert len({float(degrpo.token_weights(length, totals, alpha, form)[0]) for length in lengths}) == 1
    first = [float(grpo.token_weights(length, totals, "paper")[0]) * length for length in lengths]
    np.testing.assert_allclose(first, first[0], rtol=1e-6)


def naive(
    new: float,
    old: float,
    ref: float | None,
    advantage: float,
    weight: float,
    kl_weight: float,
    clip: float,
    bound: float,
) -> tuple[float, float, float, bool]:
    """(surrogate loss, KL loss, their gradient with beta = 1 by log-prob, clipped) of one token, by cases."""
    raw = new - old
    ratio = math.exp(min(max(raw, -bound), bound))
    inside = -bound <= raw <= bound
    if advantage > 0 and ratio > 1 + clip:
        value, slope, clipped = 1 + clip, 0.0, True
    elif advantage < 0 and ratio < 1 - clip:
        value, slope, clipped = 1 - clip, 0.0, True
    else:
        value, slope, clipped = ratio, ratio * inside, False
    surrogate, gradient = -weight * advantage * value, -weight * advantage * slope
    kl = 0.0
    if ref is not None:
        d = min(max(ref - new, -bound), bound)
        kl = kl_weight * (math.exp(d) - d - 1)
        gradient += kl_weight * (1 - math.exp(d)) * (-bound <= ref - new <= bound)
    return surrogate, kl, gradient, clipped


TOKEN = st.tuples(
    st.floats(-30, 0),  # new
    st.floats(-30, 0),  # old
    st.floats(-30, 0),  # reference
    st.sampled_from([-1.5, -0.25, 0.0, 0.25, 1.5]),  # advantage
    st.sampled_from([0.0, 0.01, 1.0]),
    st.sampled_from([0.0, 0.02, 1.0]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TOKEN, min_size=1, max_size=20),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([1.0, 10.0]),
    st.booleans(),
)
def test_surrogate_and_its_gradient(tokens: list[tuple[float, ...]], clip: float, bound: float, with_ref: bool) -> None:
    """Every case: inside, clipped either way, beyond the bound on the log-ratio, with and without a reference."""
    new, old, ref, advantages, weights, kl_weights = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*tokens)
    )
    new.requires_grad_()
    losses = policy_losses(new, old, ref if with_ref else None, advantages, weights, kl_weights, clip, bound)
    (losses.surrogate + losses.kl).sum().backward()
    assert new.grad is not None
    for i, (n, o, r, a, w, v) in enumerate(tokens):
        surrogate, kl, gradient, clipped = naive(n, o, r if with_ref else None, a, w, v, clip, bound)
        assert losses.surrogate[i].item() == pytest.approx(surrogate, rel=1e-9, abs=1e-12)
        assert losses.kl[i].item() == pytest.approx(kl, rel=1e-9, abs=1e-12)
        assert new.grad[i].item() == pytest.approx(gradient, rel=1e-9, abs=1e-12)
        assert bool(losses.clipped[i]) == clipped
        assert losses.ratio[i].item() == pytest.approx(math.exp(min(max(n - o, -bound), bound)))


def test_gradient_by_finite_differences() -> None:
    """Away from the kinks, autograd's answer is the slope of the values."""
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(40, dtype=torch.float64, generator=generator)
    old = new + 0.5 * torch.randn(40, dtype=torch.float64, generator=generator)
    ref = new + torch.randn(40, dtype=torch.float64, generator=generator)
    advantages = torch.randn(40, dtype=torch.float64, generator=generator)
    weights = torch.rand(40, dtype=torch.float64, generator=generator)

    def loss(x: torch.Tensor) -> torch.Tensor:
        losses = policy_losses(x, old, ref, advantages, weights, weights, 0.2, 10.0)
        return losses.surrogate + 0.3 * losses.kl

    assert torch.autograd.gradcheck(loss, new.clone().requires_grad_(), eps=1e-7, atol=1e-6)


def extreme(new: float, old: float, ref: float, advantage: float) -> tuple[TokenLosses, torch.Tensor]:
    x = torch.tensor([new], requires_grad=True)
    one = torch.ones(1)
    losses = policy_losses(x, torch.tensor([old]), torch.tensor([ref]), advantage * one, one, one, 0.2, 10.0)
    (losses.surrogate + losses.kl).sum().backward()
    assert x.grad is not None
    return losses, x.grad


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize(
    ("new", "old", "ref"), [(-1e4, 0.0, 0.0), (0.0, -1e4, -1e4), (-80.0, -1e-6, -1e4), (0.0, -200.0, 0.0)]
)
def test_extreme_ratios_stay_finite(new: float, old: float, ref: float, advantage: float) -> None:
    """float32, log-probs thousands of nats apart: bounded at exp(10), no gradient beyond the bound."""
    losses, gradient = extreme(new, old, ref, advantage)
    assert torch.isfinite(losses.surrogate).all() and torch.isfinite(losses.kl).all() and torch.isfinite(gradient).all()
    assert float(losses.ratio) <= math.exp(10) * (1 + 1e-6)
    assert float(losses.surrogate.detach().abs()) <= 2 * math.exp(10) * (1 + 1e-6)


def test_a_token_of_no_weight_adds_nothing() -> None:
    """Prompt tokens: log-probs zero, weights zero."""
    zero = torch.zeros(3, requires_grad=True)
    none = torch.zeros(3)
    losses = policy_losses(zero, none, none, none, none, none, 0.2, 10.0)
    (losses.surrogate + losses.kl).sum().backward()
    assert zero.grad is not None and not zero.grad.any() and not losses.clipped.any()
