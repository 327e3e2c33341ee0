"""The sampler spreads prompts over workers and returns trajectories ordered by prompt, then sibling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.request import RolloutResult, SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Finish, Trajectory
from rollout.worker import RolloutWorker
from tests.helpers.handles import LocalHandle, PendingHandle
from tests.helpers.prompts import make_prompts

SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=8)


def places(trajectories: list[Trajectory]) -> list[tuple[str, int]]:
    return [(t.prompt.uid, t.sibling) for t in trajectories]


def requested(handle: LocalHandle | PendingHandle) -> list[tuple[str, int]]:
    """(prompt, sibling) of all that was requested of a worker."""
    requests = [args[0] for method, args in handle.calls if method == "sample"]
    return [(request.prompts[p].uid, sibling) for request in requests for p, sibling in request.siblings]


@pytest.fixture
def two(rollout_worker: RolloutWorker) -> list[LocalHandle]:
    """Two handles; one engine answers for both, since a trajectory does not depend on which engine sampled it."""
    return [LocalHandle(rollout_worker), LocalHandle(rollout_worker)]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_trajectories_are_in_order_and_siblings_share_a_worker(two: list[LocalHandle], count: int) -> None:
    prompts = make_prompts(count)
    trajectories = Sampler(two, SAMPLING).sample(prompts, 4, step=0).wait()
    assert places(trajectories) == [(p.uid, s) for p in prompts for s in range(4)]
    requests = [requested(handle) for handle in two]
    assert sorted(requests[0] + requests[1]) == sorted(places(trajectories))
    assert not {uid for uid, _ in requests[0]} & {uid for uid, _ in requests[1]}  # siblings share a worker
    assert abs(len(requests[0]) - len(requests[1])) <= 4


def test_a_worker_without_prompts_is_not_called(two: list[LocalHandle]) -> None:
    Sampler(two, SAMPLING).sample(make_prompts(1), 4, step=0).wait()
    assert [len(handle.calls) for handle in two] == [1, 0]


def test_no_prompts_give_no_trajectories(two: list[LocalHandle]) -> None:
    assert Sampler(two, SAMPLING).sample([], 4, step=0).wait() == []


def test_the_number_of_workers_changes_nothing(two: list[LocalHandle]) -> None:
    prompts = make_prompts(5)
    one_worker = Sampler(two[:1], SAMPLING).sample(prompts, 4, step=3).wait()
    two_workers = Sampler(two, SAMPLING).sample(prompts, 4, step=3).wait()
    for a, b in zip(one_worker, two_workers, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.behavior_logprobs, b.behavior_logprobs)


def test_statistics_are_the_sum_of_tokens_and_the_slowest_worker(two: list[LocalHandle]) -> None:
    pending = Sampler(two, SAMPLING).sample(make_prompts(5), 4, step=0)
    assert pending.stats is None
    trajectories = pending.wait()
    assert pending.stats is not None
    assert pending.stats.tokens == sum(len(t.token_ids) for t in trajectories)
    requests: list[RolloutResult] = [part.answer.wait() for part in pending.parts]
    assert pending.stats.seconds == max(request.seconds for request in requests)


def test_a_batch_may_have_its_own_sampling_parameters(two: list[LocalHandle]) -> None:
    """Validation forces modes through the same sampler."""
    sampler = Sampler(two, SAMPLING)
    forced = sampler.sample(make_prompts(3), 2, 0, SamplingParams(1.0, 1.0, 4, Mode.SHORT)).wait()
    assert all(t.mode == Mode.SHORT and t.forced and len(t.token_ids) <= 4 for t in forced)
    assert not any(t.forced for t in sampler.sample(make_prompts(3), 2, 0).wait())


# ---------------------------------------------------------------------- what is requested of whom


def of_level(prompts: list[Prompt], *levels: str) -> list[Prompt]:
    return [replace(prompt, level=level) for prompt, level in zip(prompts, levels, strict=True)]


@pytest.fixture
def learned() -> tuple[Sampler, list[PendingHandle]]:
    """Two workers, and answers of 100 tokens to hard prompts and 10 to easy ones so far."""
    workers = [PendingHandle(), PendingHandle()]
    sampler = Sampler(list(workers), SamplingParams(1.0, 1.0, 100))
    for level, length in (("hard", 100), ("easy", 10)):
        batch = sampler.sample(of_level(make_prompts(2, seed=9), level, level), 1, 0)
        for worker in workers:
            worker.finish(length)
        batch.wait()
    return sampler, workers


def test_the_longest_groups_go_first_to_the_least_loaded_worker(
    learned: tuple[Sampler, list[PendingHandle]],
) -> None:
    sampler, workers = learned
    prompts = of_level(make_prompts(6), "easy", "easy", "hard", "easy", "easy", "easy")
    batch = sampler.sample(prompts, 4, 1)
    uids = [prompt.uid for prompt in prompts]
    firsts = [list(dict.fromkeys(uid for uid, sibling in requested(worker)[1 + 1 :])) for worker in workers]
    assert firsts == [[uids[2]], [uids[i] for i in (0, 1, 3, 4, 5)]]  # 400 tokens against 200
    assert [part.expected for part in batch.parts] == [400, 200]
    second = sampler.sample(of_level(make_prompts(2, seed=1), "hard", "easy"), 4, 2)
    assert [part.expected for part in second.parts] == [40, 400]  # the long one goes where less is left


def test_finished_requests_are_no_longer_outstanding(learned: tuple[Sampler, list[PendingHandle]]) -> None:
    sampler, workers = learned
    sampler.sample(of_level(make_prompts(2), "hard", "easy"), 4, 1)  # 400 tokens and 40
    assert len(workers[0].calls) == len(workers[1].calls) == 3
    sampler.sample(of_level(make_prompts(1, seed=1), "easy"), 4, 2)
    assert len(workers[1].calls) == 4
    workers[0].finish(100)
    sampler.sample(of_level(make_prompts(1, seed=2), "easy"), 4, 3)
    assert len(workers[0].calls) == 4 and len(workers[1].calls) == 4


def test_many_batches_in_flight_load_all_workers_evenly() -> None:
    """Whatever the lengths: by tokens outstanding no worker has more than one group above another."""
    rng = np.random.default_rng(0)
    workers = [PendingHandle() for _ in range(4)]
    sampler = Sampler(list(workers), SamplingParams(1.0, 1.0, 1000))
    means = np.exp(rng.normal(4, 1.5, 12)).astype(int) + 1
    for level, mean in enumerate(means):
        (prompt,) = of_level(make_prompts(1), str(level))
        zeros = np.zeros(mean, np.int32)
        sampler.lengths.learn([Trajectory(prompt, 0, zeros, zeros.astype(np.float32), None, Finish.STOP, zeros)])
    for step in range(5):
        levels = [str(rng.integers(12)) for _ in range(17)]
        sampler.sample(of_level(make_prompts(17, seed=step), *levels), 3, step)
    loads = [
        sum(sampler.lengths.expected(request.prompts[p]) for request in worker.requests for p, _ in request.siblings)
        for worker in workers
    ]
    assert max(loads) - min(loads) <= 3 * max(means)


def test_forced_modes_do_not_change_expected_lengths() -> None:
    worker = PendingHandle()
    sampler = Sampler([worker], SamplingParams(1.0, 1.0, 100))
    prompts = of_level(make_prompts(1), "hard")
    batch = sampler.sample(prompts, 1, 0, SamplingParams(1.0, 1.0, 100, Mode.SHORT), urgent=True)
    worker.finish(3)
    batch.wait()
    assert sampler.lengths.expected(prompts[0]) == 100
    batch = sampler.sample(prompts, 1, 0)
    worker.finish(20)
    batch.wait()
    assert sampler.lengths.expected(prompts[0]) == 20


def test_requests_carry_their_priority_and_minimum_version() -> None:
    """Urgent ones before all others, and among themselves in their order; never weights older than those pushed."""
    worker = PendingHandle()
    sampler = Sampler([worker], SAMPLING)
    for version, urgent in ((0, False), (3, True), (3, False), (4, True)):
        sampler.version = version
        sampler.sample(make_prompts(1), 1, 0, urgent=urgent)
    requests = worker.requests
    assert [request.min_version for request in requests] == [0, 3, 3, 4]
    assert sorted(range(4), key=lambda i: requests[i].batch) == [1, 3, 0, 2]
