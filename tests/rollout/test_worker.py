"""One rollout worker: trajectories record what was sampled, by which seed, in which mode and by which weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from rollout.mode import MODES, ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.request import RolloutResult, SamplingParams, derive_seed
from rollout.trajectory import Finish, Trajectory
from rollout.weight_sync.weights import views
from rollout.worker import RolloutWorker
from tests.helpers.engines import TIED, complete, policy_weights, rollout_request
from tests.helpers.prompts import make_prompts

FREE = SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=16)


@dataclass(frozen=True)
class Answer:
    sampled: RolloutResult
    trajectories: list[Trajectory]


def ids(answer: Answer) -> list[tuple[int, ...]]:
    return [tuple(t.token_ids.tolist()) for t in answer.trajectories]


def group(
    worker: RolloutWorker, prompts: list[Prompt], size: int, step: int = 0, sampling: SamplingParams = FREE
) -> Answer:
    request = rollout_request(prompts, size, sampling, step=step)
    result = worker.sample(request)
    return Answer(result, complete(request, result))


def test_trajectories_follow_from_prompt_sibling_step_and_seed(rollout_worker: RolloutWorker) -> None:
    prompts = make_prompts(4)
    first = group(rollout_worker, prompts, 4)
    again = group(rollout_worker, prompts, 4)
    assert ids(first) == ids(again)
    for one, other in zip(first.trajectories, again.trajectories, strict=True):
        assert np.array_equal(one.behavior_logprobs, other.behavior_logprobs)
    assert len(set(ids(first))) == 16  # siblings differ
    assert not set(ids(first)) & set(ids(group(rollout_worker, prompts, 4, step=1)))
    rollout_worker.seed = 1
    try:
        assert not set(ids(first)) & set(ids(group(rollout_worker, prompts, 4)))
    finally:
        rollout_worker.seed = 0


def test_a_trajectory_does_not_depend_on_its_batch(rollout_worker: RolloutWorker) -> None:
    """Nor, therefore, on the number of workers."""
    prompts = make_prompts(6)
    whole = group(rollout_worker, prompts, 4).trajectories
    alone = group(rollout_worker, prompts[3:4], 4).trajectories
    for one, other in zip(whole[12:16], alone, strict=True):
        assert np.array_equal(one.token_ids, other.token_ids)
        assert np.array_equal(one.behavior_logprobs, other.behavior_logprobs)


def test_trajectories_keep_the_requests_order_and_limits(rollout_worker: RolloutWorker, control: ControlTokens) -> None:
    prompts = make_prompts(100)
    sampled = group(rollout_worker, prompts, 2, sampling=SamplingParams(1.0, 1.0, 48))
    assert [(t.prompt.uid, t.sibling) for t in sampled.trajectories] == [(p.uid, s) for p in prompts for s in (0, 1)]
    assert sampled.sampled.tokens == sum(len(t.token_ids) for t in sampled.trajectories)
    assert sampled.sampled.seconds > 0
    assert {t.finish for t in sampled.trajectories} == {Finish.STOP, Finish.LENGTH}
    for t in sampled.trajectories:
        assert t.token_ids.dtype == np.int32 and t.behavior_logprobs.dtype == np.float32
        assert len(t.token_ids) == len(t.behavior_logprobs) and np.all(t.behavior_logprobs <= 0)
        assert (t.token_ids[-1] == control.eos) == (t.finish is Finish.STOP)
        assert (len(t.token_ids) == 48) if t.finish is Finish.LENGTH else (len(t.token_ids) <= 48)
        assert t.mode == control.mode_of(int(t.token_ids[0])) and not t.forced


@pytest.mark.parametrize("mode", MODES)
def test_a_forced_modes_control_token_is_given_and_not_sampled(
    rollout_worker: RolloutWorker, control: ControlTokens, mode: Mode
) -> None:
    """Its control token is given: log-prob 0, counted in the length, and what follows is sampled given it."""
    prompts = make_prompts(20)
    sampled = group(rollout_worker, prompts, 2, sampling=SamplingParams(1.0, 1.0, 16, mode))
    for t in sampled.trajectories:
        assert t.forced and t.mode == mode
        assert t.token_ids[0] == control.id_of(mode) and t.behavior_logprobs[0] == 0
        assert np.all(t.behavior_logprobs[1:] < 0)
        assert len(t.token_ids) <= 16 and (len(t.token_ids) == 16 or t.finish is Finish.STOP)
    assert sampled.sampled.tokens == sum(len(t.token_ids) - 1 for t in sampled.trajectories)  # sampled ones
    longer = [_with_prompt(p, control.id_of(mode)) for p in prompts]
    as_prompt = group(rollout_worker, longer, 2, sampling=SamplingParams(1.0, 1.0, 15))
    assert [t[1:] for t in ids(sampled)] == ids(as_prompt)


def _with_prompt(prompt: Prompt, token: int) -> Prompt:
    return Prompt(prompt.uid, prompt.problem, np.append(prompt.token_ids, token), prompt.answer, prompt.source)


def test_a_response_may_be_one_token(rollout_worker: RolloutWorker) -> None:
    """Cut off right after the control token."""
    (t,) = group(rollout_worker, make_prompts(1), 1, sampling=SamplingParams(1.0, 1.0, 1)).trajectories
    assert len(t.token_ids) == 1


def test_a_lower_temperature_has_higher_log_probs(rollout_worker: RolloutWorker) -> None:
    def mean_logprob(temperature: float) -> float:
        sampled = group(rollout_worker, make_prompts(20), 2, sampling=SamplingParams(temperature, 1.0, 16))
        return float(np.concatenate([t.behavior_logprobs for t in sampled.trajectories]).mean())

    assert mean_logprob(0.6) > mean_logprob(1.0) + 0.5


def test_versions_are_those_of_the_loaded_weights(rollout_worker: RolloutWorker) -> None:
    import torch

    def one() -> Trajectory:
        return group(rollout_worker, make_prompts(1), 1).trajectories[0]

    before = one()
    assert set(before.versions) == {0} and rollout_worker.ready() == 0
    names = policy_weights(rollout_worker.engine.engine.model_config.model)
    perturbed = [(name, tensor + 0.05 * torch.randn(tensor.shape)) for name, tensor in names]
    assert rollout_worker.load(views(perturbed, 5, TIED).copy()) > 0
    after = one()
    assert set(after.versions) == {5} and rollout_worker.ready() == 5
    assert not np.array_equal(before.behavior_logprobs, after.behavior_logprobs)
    rollout_worker.load(views(names, 6, TIED).copy())
    back = one()
    assert set(back.versions) == {6}
    assert np.array_equal(back.token_ids, before.token_ids)
    assert np.array_equal(back.behavior_logprobs, before.behavior_logprobs)


def test_siblings_of_long_prompts_are_all_sampled(rollout_worker: RolloutWorker) -> None:
    sampled = group(rollout_worker, make_prompts(16, length=1000), 8, sampling=SamplingParams(1.0, 1.0, 4))
    assert len(sampled.trajectories) == 128


def test_seeds_never_change_between_versions() -> None:
    """Golden values: a run that is resumed elsewhere, or next year, samples what it would have sampled."""
    assert derive_seed(0, "arithmetic/train/0/0", 0, 0) == 3250552164651571228
    assert derive_seed(1, "gsm8k/train/17#e0", 7, 599) == 2077010520949483998
    assert derive_seed(0, "x", 0, -1) == 6824567769595801568


def test_seeds_do_not_collide() -> None:
    """No two of 200,000 in 63 bits; in the 32 that count on the CPU no more than chance, never among siblings."""
    seeds = np.array(
        [derive_seed(r, f"set/{p}#e0", s, t) for r in (0, 1) for p in range(250) for t in range(50) for s in range(8)]
    )
    assert len(np.unique(seeds)) == len(seeds) and seeds.min() >= 0
    low = seeds & 0xFFFFFFFF
    assert len(low) - len(np.unique(low)) < 20  # 4.7 expected
    assert all(len(set(siblings)) == 8 for siblings in low.reshape(-1, 8).tolist())


def test_seeds_distinguish_every_argument() -> None:
    assert derive_seed(1, "1", 1, 11) != derive_seed(11, "1", 1, 1) != derive_seed(1, "11", 1, 1)
    assert derive_seed(0, "a", 1, 2) != derive_seed(0, "a", 2, 1)
