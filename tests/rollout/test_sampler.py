"""The sampler spreads prompts over workers and gives trajectories back ordered by prompt, then sibling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.request import RolloutResult, SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory

MakePrompts = Callable[..., list[Prompt]]
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=8)


def places(trajectories: list[Trajectory]) -> list[tuple[str, int]]:
    return [(t.prompt.uid, t.sibling) for t in trajectories]


def asked(handle: Any) -> list[tuple[str, int]]:
    """(prompt, sibling) of all that a worker was asked for."""
    requests = [args[0] for method, args in handle.calls if method == "sample"]
    return [(request.prompts[p].uid, sibling) for request in requests for p, sibling in request.siblings]


@pytest.fixture
def two(rollout_worker: Any, local_handle: Any) -> list[Any]:
    """Two handles; one engine answers for both, since a trajectory does not depend on which engine sampled it."""
    return [local_handle(rollout_worker), local_handle(rollout_worker)]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_order_and_placement(two: list[Any], make_prompts: MakePrompts, count: int) -> None:
    prompts = make_prompts(count)
    trajectories = Sampler(two, SAMPLING).sample(prompts, 4, step=0).wait()
    assert places(trajectories) == [(p.uid, s) for p in prompts for s in range(4)]
    requests = [asked(handle) for handle in two]
    assert sorted(requests[0] + requests[1]) == sorted(places(trajectories))
    assert not {uid for uid, _ in requests[0]} & {uid for uid, _ in requests[1]}  # siblings share a worker
    assert abs(len(requests[0]) - len(requests[1])) <= 4


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
    requests: list[RolloutResult] = [part.answer.wait() for part in pending.parts]
    assert pending.stats.seconds == max(request.seconds for request in requests)


def test_a_sampling_of_its_own(two: list[Any], make_prompts: MakePrompts) -> None:
    """Validation forces modes through the same sampler."""
    sampler = Sampler(two, SAMPLING)
    forced = sampler.sample(make_prompts(3), 2, 0, SamplingParams(1.0, 1.0, 4, Mode.SHORT)).wait()
    assert all(t.mode is Mode.SHORT and t.forced and len(t.token_ids) <= 4 for t in forced)
    assert not any(t.forced for t in sampler.sample(make_prompts(3), 2, 0).wait())


# ---------------------------------------------------------------------- who is asked for what


class LocalFuture:
    """A value, there from the beginning or from when it is set."""

    def __init__(self, value: Any = None):
        self.value = value

    def wait(self) -> Any:
        return self.value

    def done(self) -> bool:
        return self.value is not None


class Patient:
    """A worker that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: list[LocalFuture] = []

    def call(self, method: str, *args: Any) -> LocalFuture:
        self.calls.append((method, args))
        self.answers.append(LocalFuture())
        return self.answers[-1]

    def finish(self, call: int, length: int) -> None:
        """Answer a share: `length` tokens for each response."""
        count = len(self.calls[call][1][0].siblings)
        tokens = np.zeros(count * length, np.int32)
        flags = np.zeros(count, np.uint8)
        lengths = np.full(count, length, np.int32)
        self.answers[call].value = RolloutResult(
            lengths, tokens, tokens.astype(np.float32), tokens, flags, flags, False, count * length, 0.0, 1.0
        )


def of_level(prompts: list[Prompt], *levels: str) -> list[Prompt]:
    return [replace(prompt, level=level) for prompt, level in zip(prompts, levels, strict=True)]


@pytest.fixture
def learned(make_prompts: MakePrompts) -> tuple[Sampler, list[Patient]]:
    """Two workers, and answers of 100 tokens to hard prompts and 10 to easy ones so far."""
    workers = [Patient(), Patient()]
    sampler = Sampler(list(workers), SamplingParams(1.0, 1.0, 100))
    for level, length in (("hard", 100), ("easy", 10)):
        batch = sampler.sample(of_level(make_prompts(2, seed=9), level, level), 1, 0)
        for worker in workers:
            worker.finish(-1, length)
        batch.wait()
    return sampler, workers


def test_the_longest_first_and_each_to_the_worker_with_least_to_do(
    learned: tuple[Sampler, list[Patient]], make_prompts: MakePrompts
) -> None:
    sampler, workers = learned
    prompts = of_level(make_prompts(6), "easy", "easy", "hard", "easy", "easy", "easy")
    batch = sampler.sample(prompts, 4, 1)
    uids = [prompt.uid for prompt in prompts]
    firsts = [list(dict.fromkeys(uid for uid, sibling in asked(worker)[1 + 1 :])) for worker in workers]
    assert firsts == [[uids[2]], [uids[i] for i in (0, 1, 3, 4, 5)]]  # 400 tokens against 200
    assert [part.expected for part in batch.parts] == [400, 200]
    second = sampler.sample(of_level(make_prompts(2, seed=1), "hard", "easy"), 4, 2)
    assert [part.expected for part in second.parts] == [40, 400]  # the long one goes where less is left


def test_what_has_ended_is_no_longer_outstanding(
    learned: tuple[Sampler, list[Patient]], make_prompts: MakePrompts
) -> None:
    sampler, workers = learned
    sampler.sample(of_level(make_prompts(2), "hard", "easy"), 4, 1)  # 400 tokens and 40
    assert len(workers[0].calls) == len(workers[1].calls) == 3
    sampler.sample(of_level(make_prompts(1, seed=1), "easy"), 4, 2)
    assert len(workers[1].calls) == 4
    workers[0].finish(-1, 100)
    sampler.sample(of_level(make_prompts(1, seed=2), "easy"), 4, 3)
    assert len(workers[0].calls) == 4 and len(workers[1].calls) == 4


def test_many_batches_ahead_load_all_workers_alike(make_prompts: MakePrompts) -> None:
    """Whatever the lengths: by tokens outstanding no worker has more than one group above another."""
    rng = np.random.default_rng(0)
    workers = [Patient() for _ in range(4)]
    sampler = Sampler(list(workers), SamplingParams(1.0, 1.0, 1000))
    for i in range(12):
        sampler.lengths._means[("random", str(i))] = float(np.exp(rng.normal(4, 1.5)))
    for step in range(5):
        levels = [str(rng.integers(12)) for _ in range(17)]
        sampler.sample(of_level(make_prompts(17, seed=step), *levels), 3, step)
    loads = [sum(part.expected for part in sampler._unfinished(worker)) for worker in range(4)]
    assert max(loads) - min(loads) <= 3 * max(sampler.lengths._means.values())


def test_forced_modes_teach_nothing_about_lengths(make_prompts: MakePrompts) -> None:
    worker = Patient()
    sampler = Sampler([worker], SamplingParams(1.0, 1.0, 100))
    prompts = of_level(make_prompts(1), "hard")
    batch = sampler.sample(prompts, 1, 0, SamplingParams(1.0, 1.0, 100, Mode.SHORT), urgent=True)
    worker.finish(-1, 3)
    batch.wait()
    assert sampler.lengths.expected(prompts[0]) == 100
    batch = sampler.sample(prompts, 1, 0)
    worker.finish(-1, 20)
    batch.wait()
    assert sampler.lengths.expected(prompts[0]) == 20


def test_numbers_of_batches_and_the_weights_they_wait_for(make_prompts: MakePrompts) -> None:
    """Urgent ones before all others, and among themselves in their order; never weights older than those pushed."""
    worker = Patient()
    sampler = Sampler([worker], SAMPLING)
    for version, urgent in ((0, False), (3, True), (3, False), (4, True)):
        sampler.version = version
        sampler.sample(make_prompts(1), 1, 0, urgent=urgent)
    requests = [args[0] for method, args in worker.calls if method == "sample"]
    assert [request.min_version for request in requests] == [0, 3, 3, 4]
    assert sorted(range(4), key=lambda i: requests[i].batch) == [1, 3, 0, 2]
