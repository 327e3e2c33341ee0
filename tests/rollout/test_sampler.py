"""The sampler spreads prompts over workers and gives trajectories back ordered by prompt, then sibling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory
from rollout.worker import Sampled, Sampling

MakePrompts = Callable[..., list[Prompt]]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_response_tokens=8)


def places(trajectories: list[Trajectory]) -> list[tuple[str, int]]:
    return [(t.prompt.uid, t.sibling) for t in trajectories]


def asked(handle: Any) -> list[tuple[str, int]]:
    """(prompt, sibling) of all that a worker was asked for."""
    pairs = [zip(prompts, siblings) for method, (prompts, siblings, *_) in handle.calls if method == "sample"]
    return [(p.uid, s) for pair in pairs for p, s in pair]


@pytest.fixture
def two(rollout_worker: Any, local_handle: Any) -> list[Any]:
    """Two handles; one engine answers for both, since a trajectory does not depend on which engine sampled it."""
    return [local_handle(rollout_worker), local_handle(rollout_worker)]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_order_and_placement(two: list[Any], make_prompts: MakePrompts, count: int) -> None:
    prompts = make_prompts(count)
    trajectories = Sampler(two, SAMPLING).sample(prompts, 4, step=0).wait()
    assert places(trajectories) == [(p.uid, s) for p in prompts for s in range(4)]
    shares = [asked(handle) for handle in two]
    assert sorted(shares[0] + shares[1]) == sorted(places(trajectories))
    assert not {uid for uid, _ in shares[0]} & {uid for uid, _ in shares[1]}  # siblings share a worker
    assert abs(len(shares[0]) - len(shares[1])) <= 4


def test_a_worker_without_prompts_is_not_called(two: list[Any], make_prompts: MakePrompts) -> None:
    Sampler(two, SAMPLING).sample(make_prompts(1), 4, step=0).wait()
    assert [len(handle.calls) for handle in two] == [1, 0]


def test_no_prompts(two: list[Any]) -> None:
    assert Sampler(two, SAMPLING).sample([], 4, step=0).wait() == []


def test_the_number_of_workers_changes_nothing(two: list[Any], make_prompts: MakePrompts) -> None:
    prompts = make_prompts(5)
    one_worker = Sampler(two[:1], SAMPLING).sample(prompts, 4, step=3).wait()
    two_workers = Sampler(two, SAMPLING).sample(prompts, 4, step=3).wait()
    for a, b in zip(one_worker, two_workers, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.behavior_logprobs, b.behavior_logprobs)


def test_stats(two: list[Any], make_prompts: MakePrompts) -> None:
    pending = Sampler(two, SAMPLING).sample(make_prompts(5), 4, step=0)
    assert pending.stats is None
    trajectories = pending.wait()
    assert pending.stats is not None
    assert pending.stats.tokens == sum(len(t.token_ids) for t in trajectories)
    shares: list[Sampled] = [future.wait() for _, future in pending.parts]
    assert pending.stats.seconds == max(share.seconds for share in shares)
    assert pending.stats.waited >= 0


def test_a_sampling_of_its_own(two: list[Any], make_prompts: MakePrompts) -> None:
    """Validation forces modes through the same sampler."""
    sampler = Sampler(two, SAMPLING)
    forced = sampler.sample(make_prompts(3), 2, 0, Sampling(1.0, 1.0, 4, Mode.SHORT)).wait()
    assert all(t.mode is Mode.SHORT and t.forced and len(t.token_ids) <= 4 for t in forced)
    assert not any(t.forced for t in sampler.sample(make_prompts(3), 2, 0).wait())


def test_load_reaches_every_worker(two: list[Any], _shared_worker: Any) -> None:
    futures = Sampler(two, SAMPLING).load(_shared_worker.weights)
    assert len(futures) == 2 and all(future.wait() > 0 for future in futures)
    assert all(handle.calls[-1][0] == "load" for handle in two)
