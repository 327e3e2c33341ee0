"""A real engine that leaves its GPU in mid-answer and takes it again: what was being sampled goes on, what is asked
meanwhile waits. vLLM's own state machine of sleep modes runs on the CPU as well; only the memory stays.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from conf.schema import OnWeightSync
from rollout.engine import Request
from rollout.request import SamplingParams
from rollout.weight_sync.weights import Weights
from rollout.worker import RolloutWorker
from tests.helpers.engines import complete, preempted, rollout_request, sampled
from tests.helpers.handles import InThread
from tests.helpers.policies import BOUND, Policies, until, whole_prefix
from tests.helpers.prompts import make_prompts


@pytest.fixture
def worker(rollout_worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutWorker]:
    monkeypatch.setattr(rollout_worker.conf, "on_weight_sync", OnWeightSync.recompute)
    yield rollout_worker
    rollout_worker.wake()


@contextmanager
def absences(worker: RolloutWorker, seed: int, make: Callable[[int], Weights] | None = None) -> Iterator[list[int]]:
    """The worker leaves its GPU at random moments, from another thread. make: new weights for each return, in place of
    the old ones; None: it keeps its own. Gives the versions that it returned with."""
    rng, over, seen = random.Random(seed), threading.Event(), list[int]()

    def leave() -> None:
        while not over.wait(rng.random() * 0.08):
            worker.sleep(make is None)
            over.wait(rng.random() * 0.01)
            if make is not None:
                worker.wake(["weights"])
                worker.load(make(worker.ready() + 1))
            worker.wake()
            seen.append(worker.ready())

    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leave)
        try:
            yield seen
        finally:
            over.set()
        leaving.result()


def test_answers_are_the_same_bit_for_bit_however_often_they_are_interrupted(
    worker: RolloutWorker, policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights that were kept, and with equal ones loaded in their place; prompts of one and of several blocks, of
    both batches, with limits by the first token."""
    prompts = make_prompts(12) + make_prompts(6, length=150, seed=1)
    sampling = SamplingParams(0.8, 0.95, 64, None, 30, 50)
    requests = [rollout_request(prompts, 4, sampling, batch, batch) for batch in (1, 2)]
    calm = [worker.sample(one) for one in requests]
    interruptions = preempted(worker.engine, monkeypatch)
    for seed, make in enumerate((None, lambda version: policies.weights(version, 0))):
        with absences(worker, seed, make) as seen, ThreadPoolExecutor(2) as pool:
            stormy = list(pool.map(worker.sample, requests))
        assert seen and worker.scheduler.empty
        for one, other in zip(calm, stormy, strict=True):
            assert np.array_equal(one.lengths, other.lengths) and np.array_equal(one.token_ids, other.token_ids)
            assert np.array_equal(one.behavior_logprobs, other.behavior_logprobs)
    assert len(interruptions) > 50  # sequences


def test_interrupted_answers_go_on_by_the_weights_that_they_wake_with(
    worker: RolloutWorker, policies: Policies
) -> None:
    requests = [rollout_request(make_prompts(16), 4, SamplingParams(1.0, 1.0, 64), batch, batch) for batch in (1, 2)]
    with absences(worker, 3, policies.weights), ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(worker.sample, requests))
    changes = 0
    for one, answer in zip(requests, answers, strict=True):
        for t in complete(one, answer)[::2]:
            versions = t.versions.tolist()
            assert versions == sorted(versions)
            changes += len(set(versions)) - 1
            assert np.abs(t.behavior_logprobs - whole_prefix(policies, t, versions)).max() <= BOUND
    assert changes > 20


def test_while_it_sleeps_nothing_is_sampled_and_requests_wait(
    worker: RolloutWorker, policies: Policies, in_thread: InThread
) -> None:
    long = rollout_request(make_prompts(8), 4, SamplingParams(1.0, 1.0, 1500), batch=1)
    given_up = rollout_request(make_prompts(8, seed=1), 4, SamplingParams(1.0, 1.0, 1500), batch=2)
    late = rollout_request(make_prompts(4, seed=2), 4, SamplingParams(1.0, 1.0, 8), batch=3, min_version=1)
    under_way = [in_thread(worker.sample, one) for one in (long, given_up)]
    until(lambda: len(worker.scheduler.running) > 40)
    worker.sleep(False)
    running, ended = dict(worker.scheduler.running), [one.done() for one in under_way]
    waiting = in_thread(worker.sample, late)
    until(lambda: worker.scheduler.waiting)
    for _ in range(3):  # calls are served
        assert worker.ready() == 0 and worker.abort(99) == 0
    assert worker.scheduler.running == running and [one.done() for one in under_way] == ended == [False, False]
    with pytest.raises(RuntimeError, match="a step while it sleeps"):
        worker.engine.step()
    with pytest.raises(RuntimeError, match="a response while it sleeps"):
        worker.engine.add(10**6, Request([1, 2], 4, 1.0, 1.0, 0))
    with pytest.raises(RuntimeError, match="given weights while it sleeps"):
        worker.load(policies.weights(1))
    lost = worker.abort(2)
    answer = under_way[1].result(60)
    assert lost == sum(t is None for t in sampled(given_up, answer)) > 0 and not under_way[0].done()
    worker.wake(["weights"])
    with pytest.raises(RuntimeError, match="were dropped when it went to sleep: load some first"):
        worker.wake()
    worker.load(policies.weights(1))
    assert not worker.engine.awake and not waiting.done() and not under_way[0].done()
    worker.wake(["kv_cache"])
    assert set(waiting.result(60).versions.tolist()) == {1}
    worker.abort(1)
    assert {0, 1} >= set(under_way[0].result(60).versions.tolist())
    assert worker.scheduler.empty and worker.engine.unfinished == 0


@pytest.mark.parametrize("way", [OnWeightSync.keep, OnWeightSync.drain])
def test_answers_that_should_keep_their_cache_are_not_interrupted(
    rollout_worker: RolloutWorker, way: OnWeightSync, monkeypatch: pytest.MonkeyPatch, in_thread: InThread
) -> None:
    monkeypatch.setattr(rollout_worker.conf, "on_weight_sync", way)
    under_way = in_thread(rollout_worker.sample, rollout_request(make_prompts(8), 4, SamplingParams(1.0, 1.0, 1500)))
    until(lambda: rollout_worker.scheduler.running)
    with pytest.raises(RuntimeError, match=rf"keys and values would be lost \(rollout.on_weight_sync={way.value}\)"):
        rollout_worker.sleep(True)
    assert rollout_worker.engine.awake and rollout_worker.abort(1) > 0
    under_way.result(60)
