"""Groups -> weighted sequences: advantages, denominators, the split in optimizer steps, alignment token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import AlgorithmConf, Form, Loss
from learner.advantage import advantages
from learner.data.batch import Sequence
from learner.objective import optimizer_steps, weighted_sequences
from reward.group import Group
from rollout.trajectory import Finish
from tests.helpers import naive

REWARDS = st.sampled_from([1.0, 0.5, -1.0, 0.8])


@st.composite
def some_groups(draw: st.DrawFn) -> list[Group]:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    groups = []
    for p in range(draw(st.integers(1, 7))):
        rewards = draw(st.lists(REWARDS, min_size=0, max_size=5))
        lengths = [draw(st.integers(1, 30)) for _ in rewards]
        unjudged = draw(st.integers(0, 2))
        groups.append(naive.make_group(rng, int(rng.integers(1, 9)), lengths, rewards, unjudged, uid=f"q{p}"))
    return groups


CONFS = st.builds(
    AlgorithmConf,
    loss=st.sampled_from(Loss),
    form=st.sampled_from(Form),
    alpha=st.sampled_from([0.001, 0.5, 1.0]),
    length_constant=st.integers(1, 5000),
    optimizer_steps=st.integers(1, 4),
)


def test_advantages_equal_the_worked_example() -> None:
    group = naive.make_group(np.random.default_rng(0), 3, [2, 5, 9], [1.0, -1.0, 0.5])
    np.testing.assert_allclose(advantages(group), [0.83333, -1.16667, 0.33333], atol=1e-5)


@given(some_groups())
def test_advantages_are_rewards_minus_their_mean(groups: list[Group]) -> None:
    """r_i - mean, never divided by the standard deviation; zero on average; zero where the group says nothing."""
    for group in groups:
        if not len(group.rewards):
            continue
        rewards = [float(r) for r in group.rewards]
        got = advantages(group)
        assert got.dtype == np.float32 and got.shape == group.rewards.shape
        np.testing.assert_allclose(got, [r - sum(rewards) / len(rewards) for r in rewards], atol=1e-6)
        assert abs(float(got.astype(np.float64).sum())) < 1e-5
        if not group.informative:
            np.testing.assert_allclose(got, 0, atol=1e-6)


@given(some_groups(), st.floats(-5, 5), st.sampled_from([0.5, 2.0, 4.0]))
def test_advantages_follow_shift_and_scale(groups: list[Group], shift: float, scale: float) -> None:
    for group in groups:
        if len(group.rewards):
            moved = replace(group, rewards=(group.rewards * scale + shift).astype(np.float32))
            np.testing.assert_allclose(advantages(moved), scale * advantages(group), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(some_groups(), CONFS)
def test_every_sequences_weights_and_advantages_equal_plain_loops(groups: list[Group], conf: AlgorithmConf) -> None:
    """Every part of every optimizer step: tokens, weights, advantages and behavior log-probs of each kept sibling."""
    steps = optimizer_steps(groups, conf)
    sizes = [len(part) for part in np.array_split(np.arange(len(groups)), conf.optimizer_steps)]
    parts, at = [], 0
    for size in sizes:
        parts.append(groups[at : at + size])
        at += size
    parts = [part for part in parts if part]
    assert len(steps) == len(parts)
    for (sequences, totals), part in zip(steps, parts, strict=True):
        lengths = [len(t.token_ids) for group in part for t in group.trajectories]
        assert totals.trajectories == len(lengths) + sum(group.unjudged for group in part)
        assert totals.response_tokens == max(1, sum(n - 1 for n in lengths)) and totals.tokens == max(1, sum(lengths))
        wanted = naive.weighted(part, conf)
        assert len(sequences) == len(wanted)
        for got, want in zip(sequences, wanted, strict=True):
            trajectory = want.trajectory
            assert got.prompt_tokens == len(trajectory.prompt.token_ids)
            assert got.token_ids[: got.prompt_tokens].tolist() == trajectory.prompt.token_ids.tolist()
            assert got.token_ids[got.prompt_tokens :].tolist() == trajectory.token_ids.tolist()
            assert got.behavior_logprobs.tolist() == trajectory.behavior_logprobs.tolist()
            assert got.advantage == pytest.approx(want.advantage, abs=1e-6)
            assert got.mode == (-1 if trajectory.mode is None else trajectory.mode.effort)
            np.testing.assert_allclose(got.weights, want.weights, rtol=1e-6)
            np.testing.assert_allclose(got.kl_weights, want.kl_weights, rtol=1e-6)


@given(some_groups(), CONFS)
def test_the_split_covers_every_informative_sibling_once(groups: list[Group], conf: AlgorithmConf) -> None:
    learnt = [s.token_ids.tobytes() for sequences, _ in optimizer_steps(groups, conf) for s in sequences]
    whole = [s.token_ids.tobytes() for s in weighted_sequences(groups, conf)[0]]
    assert learnt == whole
    counted = sum(totals.trajectories for _, totals in optimizer_steps(groups, conf))
    assert counted == sum(len(group.trajectories) + group.unjudged for group in groups)


def test_an_uninformative_group_stays_in_every_denominator() -> None:
    """Its siblings stay in N and in the token totals, so the others weigh as if it were learnt from."""
    rng = np.random.default_rng(1)
    telling = naive.make_group(rng, 4, [3, 6], [1.0, -1.0])
    mute = naive.make_group(rng, 4, [5, 7], [0.5, 0.5])
    for form, loss in ((form, loss) for form in Form for loss in Loss):
        conf = AlgorithmConf(loss=loss, form=form, optimizer_steps=1, length_constant=64)
        (sequences, totals), (alone, few) = (weighted_sequences(g, conf) for g in ([telling, mute], [telling]))
        assert (totals.trajectories, totals.response_tokens, totals.tokens) == (4, 17, 21)
        assert (few.trajectories, few.response_tokens, few.tokens) == (2, 7, 9)
        assert len(sequences) == len(alone) == 2
        for with_mute, without in zip(sequences, alone, strict=True):
            for factor in with_mute.weights / without.weights:
                assert min(abs(factor - want) for want in (2 / 4, 7 / 17, 9 / 21)) < 1e-6


def test_dr_grpos_constant_defaults_to_the_longest_response_allowed() -> None:
    groups = [naive.make_group(np.random.default_rng(1), 4, [3, 6], [1.0, -1.0])]
    for given_, limit, want in ((None, 128, 128), (100, 128, 100)):
        conf = AlgorithmConf(loss=Loss.dr_grpo, length_constant=given_, optimizer_steps=1)
        for sequence in optimizer_steps(groups, conf, limit)[0][0]:
            np.testing.assert_allclose(sequence.weights, 1 / (2 * want), rtol=1e-6)


def test_unjudged_siblings_count_in_n_alone() -> None:
    rng = np.random.default_rng(2)
    group = naive.make_group(rng, 4, [3, 6], [1.0, -1.0], unjudged=2)
    _, totals = weighted_sequences([group], AlgorithmConf())
    assert (totals.trajectories, totals.response_tokens, totals.tokens) == (4, 7, 9)
    np.testing.assert_allclose(advantages(group), [1.0, -1.0])  # the mean is over the judged ones


def test_groups_without_information_give_totals_and_no_sequences() -> None:
    rng = np.random.default_rng(2)
    for rewards in ([1.0, 1.0], [0.5], []):
        group = naive.make_group(rng, 4, [3] * len(rewards), rewards, unjudged=1)
        sequences, totals = weighted_sequences([group], AlgorithmConf())
        assert not sequences and totals.trajectories == len(rewards) + 1 and totals.response_tokens >= 1


def test_cut_off_responses_can_be_left_out() -> None:
    """mask_cut_off: out of the loss, still in the group's mean and in the totals."""
    group = naive.make_group(np.random.default_rng(4), 4, [3, 6, 4], [1.0, -1.0, 0.5])
    long = replace(group.trajectories[1], finish=Finish.LENGTH)
    group = replace(group, trajectories=(group.trajectories[0], long, group.trajectories[2]))
    kept, totals = weighted_sequences([group], AlgorithmConf())
    masked, same = weighted_sequences([group], AlgorithmConf(mask_cut_off=True))
    assert totals == same and len(kept) == 3

    def key(sequence: Sequence) -> tuple[bytes, float, bytes]:
        return sequence.token_ids.tobytes(), sequence.advantage, sequence.weights.tobytes()

    assert [key(s) for s in masked] == [key(kept[0]), key(kept[2])]
