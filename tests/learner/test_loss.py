"""Token weights and the clipped surrogate: golden values, naive float64 loops over tokens, exact expectations."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conf.schema import AlgorithmConf, Form, Importance, KLEstimator, Loss, Old
from learner.data.batch import MicroBatch
from learner.data.pack import pack
from learner.loss import Totals, degrpo, dr_grpo, grpo, sft
from learner.loss.surrogate import TokenLosses, importance_weights, policy_losses
from learner.objective import ALGORITHMS, weighted_sequences
from tests.helpers import naive

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=12)  # T_i + 1
FORMS = st.sampled_from(Form)
PLAIN = AlgorithmConf()
SWITCHES = st.builds(
    AlgorithmConf,
    clip=st.sampled_from([0.1, 0.2, 0.3]),
    clip_high=st.sampled_from([None, 0.35, 0.6]),
    dual_clip=st.sampled_from([None, 1.05, 1.5, 3.0]),
    importance=st.sampled_from(Importance),
    importance_cap=st.sampled_from([0.5, 2.0, 5.0]),
    kl_estimator=st.sampled_from(KLEstimator),
    max_log_ratio=st.sampled_from([1.0, 10.0]),
) | st.builds(AlgorithmConf, old=st.just(Old.sampler), dual_clip=st.sampled_from([None, 2.0]))


def totals_of(lengths: list[int], dropped: int = 0) -> Totals:
    """`dropped`: trajectories that count in N alone."""
    return Totals(len(lengths) + dropped, max(1, sum(lengths) - len(lengths)), sum(lengths))


def test_golden_values_of_the_reference_code() -> None:
    """Ratio 1, alpha 0.1, two sequences of three tokens in one batch (thinkless.md)."""
    advantages = torch.tensor([[1.0, 2.0, 2.0], [3.0, 4.0, 4.0]])
    totals = Totals(trajectories=2, response_tokens=4, tokens=6)
    conf = AlgorithmConf(alpha=0.1, form=Form.code)
    weights = torch.stack([torch.tensor(degrpo.token_weights(3, totals, conf))] * 2)
    logprobs = torch.tensor([[-0.3, -1.0, -2.0], [-0.1, -4.0, -0.5]], requires_grad=True)
    old, flat = logprobs.detach().flatten(), weights.flatten()
    losses = policy_losses(logprobs.flatten(), old, old - 0.1, None, advantages.flatten(), flat, flat, conf)
    loss = losses.surrogate.sum()
    loss.backward()
    assert loss.item() == pytest.approx(-3.2, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad[0, 0].item() == pytest.approx(-0.05, rel=1e-6)
    assert logprobs.grad[0, 1].item() == pytest.approx(-0.5, rel=1e-6)
    assert logprobs.grad[1].tolist() == pytest.approx([-0.15, -1.0, -1.0], rel=1e-6)
    assert not losses.kl.any() and not losses.clipped.any()


@given(LENGTHS, FORMS, st.floats(1e-4, 10), st.integers(0, 5))
def test_degrpo_weights(lengths: list[int], form: Form, alpha: float, dropped: int) -> None:
    """w_0 = alpha / N; w_t = 1 / (N T_i) or 1 / sum T; nothing after t = 0 when T_i = 0."""
    totals, N = totals_of(lengths, dropped), len(lengths) + dropped
    sum_T = sum(length - 1 for length in lengths)
    control = response = 0.0
    for length in lengths:
        weights = degrpo.token_weights(length, totals, AlgorithmConf(form=form, alpha=alpha))
        assert weights.shape == (length,) and weights.dtype == np.float32
        T = length - 1
        want = [alpha / N]
        for _ in range(T):
            want.append(1 / (N * T) if form is Form.paper else 1 / sum_T)
        np.testing.assert_allclose(weights, want, rtol=1e-6)
        control += float(weights[0])
        response += float(weights[1:].astype(np.float64).sum())
    assert control == pytest.approx(alpha * len(lengths) / N, rel=1e-5)
    with_response = sum(length > 1 for length in lengths)
    assert response == pytest.approx(with_response / N if form is Form.paper else float(sum_T > 0), rel=1e-5)


@given(LENGTHS, FORMS)
def test_grpo_weights(lengths: list[int], form: Form) -> None:
    """1 / (N (T_i + 1)) or 1 / sum(T + 1), control token included: sums to 1 either way."""
    totals, total = totals_of(lengths), 0.0
    for length in lengths:
        weights = grpo.token_weights(length, totals, AlgorithmConf(form=form))
        want = 1 / (len(lengths) * length) if form is Form.paper else 1 / sum(lengths)
        np.testing.assert_allclose(weights, [want] * length, rtol=1e-6)
        total += float(weights.astype(np.float64).sum())
    assert total == pytest.approx(1.0, rel=1e-5)


@given(LENGTHS, st.integers(1, 30_000), st.integers(0, 5), FORMS)
def test_dr_grpo_weights(lengths: list[int], constant: int, dropped: int, form: Form) -> None:
    """1 / (N C) for every token of every response, the form having no say; the KL term's the same."""
    totals, conf = totals_of(lengths, dropped), AlgorithmConf(length_constant=constant, form=form)
    for length in lengths:
        for weights in (dr_grpo.token_weights(length, totals, conf), dr_grpo.kl_weights(length, totals, conf)):
            assert weights.shape == (length,) and weights.dtype == np.float32
            np.testing.assert_allclose(weights, [1 / ((len(lengths) + dropped) * constant)] * length, rtol=1e-6)


def test_dr_grpo_needs_its_constant() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.length_constant"):
        dr_grpo.token_weights(3, Totals(1, 2, 3), PLAIN)


def test_every_algorithm_has_one_file_and_one_entry() -> None:
    """Each name in the configuration has its entry; each file with weights for an advantage is in the table."""
    assert set(ALGORITHMS) == set(Loss)
    files = {path.stem for path in Path(grpo.__file__).parent.glob("*.py")} - {"__init__", "surrogate", "sft"}
    assert files == {loss.value for loss in Loss}
    for loss, algorithm in ALGORITHMS.items():
        assert algorithm is importlib.import_module(f"learner.loss.{loss.value}")


@given(LENGTHS)
def test_sft_weights_are_the_token_mean(lengths: list[int]) -> None:
    weights = np.concatenate([sft.token_weights(length, totals_of(lengths)) for length in lengths])
    np.testing.assert_allclose(weights, np.full(sum(lengths), 1 / sum(lengths)), rtol=1e-6)


@given(LENGTHS, st.floats(1e-4, 10))
def test_degrpos_control_token_weight_does_not_depend_on_the_length(lengths: list[int], alpha: float) -> None:
    """What DeGRPO is for; under GRPO (paper form) it shrinks as 1 / (T + 1)."""
    totals = totals_of(lengths)
    for form in Form:
        conf = AlgorithmConf(alpha=alpha, form=form)
        assert len({float(degrpo.token_weights(length, totals, conf)[0]) for length in lengths}) == 1
    paper = AlgorithmConf(form=Form.paper)
    first = [float(grpo.token_weights(length, totals, paper)[0]) * length for length in lengths]
    np.testing.assert_allclose(first, first[0], rtol=1e-6)


TOKEN = st.tuples(
    st.floats(-30, 0),  # new
    st.floats(-30, 0),  # own
    st.floats(-30, 0),  # behavior
    st.floats(-30, 0),  # reference
    st.sampled_from([-1.5, -0.25, 0.0, 0.25, 1.5]),  # advantage
    st.sampled_from([0.0, 0.01, 1.0]),
    st.sampled_from([0.0, 0.02, 1.0]),
)
NEAR = st.tuples(
    *[st.floats(-2, 0)] * 4, st.sampled_from([-1.5, -0.25, 0.25, 1.5]), *[st.sampled_from([0.01, 1.0])] * 2
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKEN | NEAR, min_size=1, max_size=20), SWITCHES, st.booleans())
def test_the_surrogate_and_its_gradient_equal_plain_loops(
    tokens: list[tuple[float, ...]], conf: AlgorithmConf, with_ref: bool
) -> None:
    """Every case of every switch, by loops over single tokens; the gradients by the derivative written out."""
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*tokens)]
    new, own, behavior, ref, advantages, weights, kl_weights = columns
    new.requires_grad_()
    losses = policy_losses(new, own, behavior, ref if with_ref else None, advantages, weights, kl_weights, conf)
    (losses.surrogate + losses.kl).sum().backward()
    assert new.grad is not None
    for i, (n, o, b, r, a, w, v) in enumerate(tokens):
        token = naive.token_loss(torch.tensor(n, dtype=torch.float64), o, b, a, w, conf)
        assert losses.surrogate[i].item() == pytest.approx(float(token.loss), rel=1e-9, abs=1e-12)
        assert losses.ratio[i].item() == pytest.approx(token.ratio)
        flags = {"high": losses.high[i], "low": losses.low[i], "dual": losses.dual[i]}
        assert [name for name, flag in flags.items() if flag] == ([token.clipped] if token.clipped else [])
        assert bool(losses.clipped[i]) == bool(token.clipped)
        anchor = b if conf.old is Old.sampler else o
        free = not token.clipped and abs(n - anchor) <= conf.max_log_ratio
        slope = float(token.loss) if free else 0.0  # d ratio / d log pi = ratio
        kl = 0.0
        if with_ref:
            kl = v * float(naive.kl_estimate(torch.tensor(n, dtype=torch.float64), r, conf))
            if abs(r - n) <= conf.max_log_ratio:
                slopes = {KLEstimator.k1: 1.0, KLEstimator.k2: n - r, KLEstimator.k3: 1 - math.exp(r - n)}
                slope += v * slopes[conf.kl_estimator]
        assert losses.kl[i].item() == pytest.approx(kl, rel=1e-9, abs=1e-12)
        assert new.grad[i].item() == pytest.approx(slope, rel=1e-9, abs=1e-12)


CHECKED = [
    PLAIN,
    AlgorithmConf(clip_high=0.4, dual_clip=1.6, importance=Importance.truncate, kl_estimator=KLEstimator.k2),
    AlgorithmConf(importance=Importance.mask, importance_cap=1.3, kl_estimator=KLEstimator.k1),
    AlgorithmConf(old=Old.sampler),
]


@pytest.mark.parametrize("conf", CHECKED, ids=["plain", "truncate", "mask", "sampler"])
def test_the_gradient_equals_finite_differences(conf: AlgorithmConf) -> None:
    """Away from the kinks, autograd's answer is the slope of the values; nothing flows through own or behavior."""
    generator = torch.Generator().manual_seed(0)

    def near(spread: float) -> Tensor:
        return new + spread * torch.randn(60, dtype=torch.float64, generator=generator)

    new = torch.randn(60, dtype=torch.float64, generator=generator)
    own, behavior, ref = near(0.5), near(0.5), near(1.0)
    advantages = torch.randn(60, dtype=torch.float64, generator=generator)
    weights = torch.rand(60, dtype=torch.float64, generator=generator)

    def loss(x: Tensor) -> Tensor:
        losses = policy_losses(x, own, behavior, ref, advantages, weights, weights, conf)
        return losses.surrogate + 0.3 * losses.kl

    assert torch.autograd.gradcheck(loss, new.clone().requires_grad_(), eps=1e-7, atol=1e-6)
    single = new.clone().requires_grad_()  # with one optimizer step own is the policy itself, detached
    losses = policy_losses(single, single.detach(), behavior, None, advantages, weights, weights, conf)
    losses.surrogate.sum().backward()
    assert single.grad is not None
    kept = torch.where(losses.clipped, 0.0, losses.surrogate.detach())
    torch.testing.assert_close(single.grad, kept)
    assert not importance_weights(single, behavior, conf).requires_grad


# ---- what the switches mean, on a distribution small enough to sum over ----

SIZE = 7


def policies(seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits with gradient, and log-probs of two others near it (sampler, reference); an advantage of each outcome."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SIZE, dtype=torch.float64, generator=generator)
    behavior, ref = (
        (logits + spread * torch.randn(SIZE, dtype=torch.float64, generator=generator)).log_softmax(-1)
        for _ in range(2)
    )
    advantages = torch.randn(SIZE, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), behavior, ref, advantages


def expected_gradient(sampled: Tensor, losses: Tensor, logits: Tensor) -> Tensor:
    """Of `losses` [SIZE] by logits, when outcomes come with log-probs `sampled`."""
    (gradient,) = torch.autograd.grad((sampled.detach().exp() * losses).sum(), logits)
    return gradient


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_kl_estimates_have_the_gradients_of_their_divergences(seed: int, spread: float) -> None:
    """k1's mean is zero; k2's is that of KL(pi || ref); k3's that of KL(ref || pi). All on samples from pi."""
    logits, _, ref, _ = policies(seed, spread)
    one, found = torch.ones(SIZE, dtype=torch.float64), {}

    def gradient(kl: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(kl(logits.log_softmax(-1)), logits)[0]

    reverse = gradient(lambda new: (new.exp() * (new - ref)).sum())  # KL(pi || ref)
    forward = gradient(lambda new: (ref.exp() * (ref - new)).sum())
    for estimator in KLEstimator:
        new = logits.log_softmax(-1)
        pi, conf = new.detach(), AlgorithmConf(kl_estimator=estimator)
        losses = policy_losses(new, pi, pi, ref, one, 0 * one, one, conf)
        found[estimator] = expected_gradient(pi, losses.kl, logits)
        if estimator is not KLEstimator.k2:  # whose value is biased
            assert float((pi.exp() * losses.kl.detach()).sum()) == pytest.approx(float((pi.exp() * (pi - ref)).sum()))
    torch.testing.assert_close(found[KLEstimator.k1], torch.zeros_like(reverse), atol=1e-12, rtol=0)
    torch.testing.assert_close(found[KLEstimator.k2], reverse)
    torch.testing.assert_close(found[KLEstimator.k3], forward)
    if spread < 0.1:  # near the reference the two directions are alike
        assert (reverse - forward).norm() < 0.1 * reverse.norm()


@pytest.mark.parametrize("seed", range(5))
def test_importance_weights_correct_for_another_sampler(seed: int) -> None:
    """Sampled from mu, below the cap: the gradient of the expected advantage under pi. Without weights: another one."""
    logits, behavior, _, advantages = policies(seed, 0.5)
    new, one = logits.log_softmax(-1), torch.ones(SIZE, dtype=torch.float64)
    want = torch.autograd.grad((new.exp() * advantages).sum(), logits)[0]

    def got(conf: AlgorithmConf, sampled: Tensor = behavior) -> Tensor:
        new = logits.log_softmax(-1)
        losses = policy_losses(new, new.detach(), sampled, None, advantages, one, one, conf)
        return -expected_gradient(sampled, losses.surrogate, logits)

    for importance in (Importance.truncate, Importance.mask):  # which are the same below the cap
        torch.testing.assert_close(got(AlgorithmConf(importance=importance, importance_cap=1e9)), want)
    torch.testing.assert_close(got(AlgorithmConf(old=Old.sampler, clip=0.999, clip_high=1e9)), want)
    torch.testing.assert_close(got(PLAIN, new.detach()), want)  # sampler and learner agree
    assert (got(PLAIN) - want).norm() > 0.05 * want.norm()
    capped = AlgorithmConf(importance=Importance.truncate, importance_cap=1.2)
    weights = importance_weights(new, behavior, capped)
    assert float(weights.max()) > 1.2  # the cap acts: each outcome's part is that of min(weight, cap)
    parts = behavior.exp() * weights.clamp(max=1.2) * advantages
    by_hand = parts - new.detach().exp() * parts.sum()  # sum_a c_a (1[a = j] - pi_j)
    torch.testing.assert_close(got(capped), by_hand)


def test_truncated_importance_equals_decoupled_ppo() -> None:
    """sum of prox / mu * min(pi / prox A, clip(pi / prox) A): written out, against the switches."""
    generator = torch.Generator().manual_seed(1)
    new, prox, behavior, advantages = (torch.randn(50, dtype=torch.float64, generator=generator) / 3 for _ in range(4))
    one = torch.ones(50, dtype=torch.float64)
    conf = AlgorithmConf(importance=Importance.truncate, importance_cap=1e9)
    u = (new - prox).exp()
    want = (prox - behavior).exp() * torch.minimum(u * advantages, u.clamp(0.8, 1.2) * advantages)
    losses = policy_losses(new, prox, behavior, None, advantages, one, one, conf)
    torch.testing.assert_close(-losses.surrogate, want)
    inside = (u - 1).abs() < 0.2  # there the proximal policy cancels: pi / mu A, what old = sampler gives unclipped
    torch.testing.assert_close(want[inside], ((new - behavior).exp() * advantages)[inside])


# ---- numbers that must not hurt ----


def extreme(
    new: float, own: float, behavior: float, ref: float, advantage: float, conf: AlgorithmConf
) -> tuple[TokenLosses, Tensor]:
    x = torch.tensor([new], requires_grad=True)
    one = torch.ones(1)
    losses = policy_losses(x, own * one, behavior * one, ref * one, advantage * one, one, one, conf)
    (losses.surrogate + losses.kl).sum().backward()
    assert x.grad is not None
    return losses, x.grad


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("conf", CHECKED, ids=["plain", "truncate", "mask", "sampler"])
@pytest.mark.parametrize(
    ("new", "old", "ref"), [(-1e4, 0.0, 0.0), (0.0, -1e4, -1e4), (-80.0, -1e-6, -1e4), (0.0, -200.0, 0.0)]
)
def test_extreme_ratios_stay_finite(new: float, old: float, ref: float, advantage: float, conf: AlgorithmConf) -> None:
    """float32, log-probs thousands of nats apart: bounded at exp(10), no gradient beyond the bound."""
    for own, behavior in itertools.product((old, new), (old, new)):
        losses, gradient = extreme(new, own, behavior, ref, advantage, conf)
        for part in (losses.surrogate, losses.kl, gradient):
            assert torch.isfinite(part).all()
        assert float(losses.ratio) <= math.exp(10) * (1 + 1e-6)
        cap = conf.importance_cap if conf.importance is not Importance.none else 1.0
        assert float(losses.surrogate.detach().abs()) <= 2 * cap * math.exp(10) * (1 + 1e-6)


def test_dual_clip_bounds_one_tokens_loss() -> None:
    """A token of negative advantage that became likely again: c |A| at most, where PPO's surrogate has no bound."""
    likely = (-0.5, -9.0, -9.0, -0.5, -1.0)  # new, own, behavior, ref, advantage
    free, gradient = extreme(*likely, PLAIN)
    assert float(free.surrogate.detach()) == pytest.approx(math.exp(8.5)) and float(gradient) > 4000
    bounded, gradient = extreme(*likely, replace(PLAIN, dual_clip=3.0))
    assert float(bounded.surrogate.detach()) == 3.0 and float(gradient) == 0 and bool(bounded.dual)
    positive, _ = extreme(*likely[:-1], 1.0, replace(PLAIN, dual_clip=3.0))
    assert float(positive.surrogate.detach()) == pytest.approx(-1.2) and not bool(positive.dual)


def test_tokens_without_weight_add_nothing() -> None:
    """Prompt tokens: log-probs zero, weights zero."""
    for conf in CHECKED:
        zero = torch.zeros(3, requires_grad=True)
        none = torch.zeros(3)
        losses = policy_losses(zero, none, none, none, none, none, none, conf)
        (losses.surrogate + losses.kl).sum().backward()
        assert zero.grad is not None and not zero.grad.any() and not losses.clipped.any()


# ---- one sum, however it is divided ----


def made_up(ids: np.ndarray, places: np.ndarray, salt: int) -> Tensor:
    """Log-probs that depend on token and place alone: what a model gives, without one. f64."""
    return -1.0 - torch.sin(torch.tensor(ids * 0.37 + places * 1.13 + salt, dtype=torch.float64)).square()


def packed_loss(mb: MicroBatch, conf: AlgorithmConf) -> tuple[float, Tensor]:
    """Loss of one micro-batch, and its gradient by each response token's log-prob."""
    mask = torch.tensor(mb.response)
    new, own, ref = (made_up(mb.token_ids, mb.position_ids, salt) * mask for salt in range(3))
    new.requires_grad_()
    others = (mb.behavior_logprobs, mb.advantages, mb.weights, mb.kl_weights)
    behavior, advantages, weights, kl_weights = (torch.tensor(values).double() for values in others)
    losses = policy_losses(new, own, behavior, ref, advantages, weights, kl_weights, conf)
    loss = losses.surrogate.sum() + conf.kl * losses.kl.sum()
    loss.backward()
    assert new.grad is not None and not new.grad[~mask].any()
    return float(loss.detach()), new.grad[mask]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from(Loss),
    form=FORMS,
    switches=SWITCHES,
    room=st.integers(0, 60),
    ranks=st.integers(1, 5),
)
def test_the_loss_does_not_depend_on_rows_or_ranks(
    seed: int, loss: Loss, form: Form, switches: AlgorithmConf, room: int, ranks: int
) -> None:
    """Rows of any size on any number of ranks, for every algorithm and switch: the loop over single tokens' sum."""
    conf = replace(switches, loss=loss, form=form, alpha=0.5, kl=0.1, length_constant=40)
    groups = naive.some_groups(seed)
    want = 0.0
    for item in naive.weighted(groups, conf):
        t, prompt = item.trajectory, len(item.trajectory.prompt.token_ids)
        places = np.arange(prompt, prompt + len(t.token_ids))
        new, own, ref = (made_up(t.token_ids, places, salt) for salt in range(3))
        for i, (weight, kl_weight) in enumerate(zip(item.weights, item.kl_weights)):
            behavior = float(t.behavior_logprobs[i])
            want += float(naive.token_loss(new[i], float(own[i]), behavior, item.advantage, weight, conf).loss)
            want += conf.kl * kl_weight * float(naive.kl_estimate(new[i], float(ref[i]), conf))
    sequences, totals = weighted_sequences(groups, conf)
    longest = max(map(len, sequences))
    divided = [mb for rank in pack(sequences, totals, longest + room, ranks).ranks for mb in rank]
    (whole,) = pack(sequences, totals, 10_000, 1).ranks[0]
    one_row, slopes = packed_loss(whole, conf)
    parts = [packed_loss(mb, conf) for mb in divided]
    assert one_row == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert math.fsum(loss for loss, _ in parts) == pytest.approx(one_row, rel=1e-12, abs=1e-14)
    found = torch.cat([slope for _, slope in parts])
    torch.testing.assert_close(found[found != 0].sort()[0], slopes[slopes != 0].sort()[0])  # each token's, once
