"""Weight syncs at random moments while real vLLM samples: nothing is lost, and every token's log-prob is by the weights
of its version, computed independently with transformers.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conf.schema import OnWeightSync, RolloutConf
from rollout.request import SamplingParams
from rollout.worker import RolloutWorker
from tests.helpers.engines import MakeWorker, complete, preempted, rollout_request
from tests.helpers.policies import BOUND, REFERENCES, Policies, kept_cache, pushes, whole_prefix
from tests.helpers.prompts import make_prompts
from tests.helpers.seldom import seldom

# ---------------------------------------------------------------------- versions per token


def test_every_tokens_log_prob_is_by_the_weights_of_its_version(
    rollout_worker: RolloutWorker, way: OnWeightSync, policies: Policies
) -> None:
    """96 sequences at a time, a third with prompts longer than a block of the cache, that siblings share."""
    prompts = make_prompts(16) + make_prompts(8, length=150, seed=1)
    sampling = SamplingParams(1.0, 1.0, 64)
    boundaries, at_boundaries, worst = 0, [], 0.0
    for round_ in range(2):
        requests = [rollout_request(prompts, 4, sampling, batch, 10 * round_ + batch) for batch in (1, 2)]
        with pushes(rollout_worker, policies.weights, round_), ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(rollout_worker.sample, requests))
        assert rollout_worker.scheduler.empty
        for one, sampled in zip(requests, answers, strict=True):
            trajectories = complete(one, sampled)
            assert len(trajectories) == 96
            for i, t in enumerate(trajectories[:: 2 + 2 * round_]):
                versions = t.versions.tolist()
                assert versions == sorted(versions)
                expected = REFERENCES[way](policies, t, versions)
                worst = max(worst, float(np.abs(t.behavior_logprobs - expected).max()))
                if len(set(versions)) > 1 and i % 4 == 0:
                    late = REFERENCES[way](policies, t, [versions[0], *versions[:-1]])
                    early = REFERENCES[way](policies, t, [*versions[1:], versions[-1]])
                    boundaries += len(set(versions)) - 1
                    for wrong in (late, early):
                        at_boundaries.append(float(np.abs(t.behavior_logprobs - wrong).max()))
    assert worst <= BOUND
    if way is OnWeightSync.drain:
        assert boundaries == 0
    else:
        assert boundaries >= 50
        assert min(at_boundaries) > 10 * BOUND and np.median(at_boundaries) > 0.05  # a version too early or late shows


def test_keep_and_recompute_differ(rollout_worker: RolloutWorker, policies: Policies) -> None:
    """So that neither reference above would pass for the other."""
    request = rollout_request(make_prompts(16), 2, SamplingParams(1.0, 1.0, 64))
    with pushes(rollout_worker, policies.weights, 0):
        trajectories = [
            t for t in complete(request, rollout_worker.sample(request)) if len(set(t.versions.tolist())) > 1
        ]
    gaps = [np.abs(t.behavior_logprobs - whole_prefix(policies, t, t.versions.tolist())).max() for t in trajectories]
    assert len(gaps) > 5 and np.median(gaps) > 0.05


def test_repeated_syncs_of_the_same_weights_change_no_bit(
    rollout_worker: RolloutWorker, way: OnWeightSync, policies: Policies
) -> None:
    """Each sequence goes on with its own random generator where it stood."""
    request = rollout_request(make_prompts(16) + make_prompts(8, length=150, seed=1), 4, SamplingParams(0.8, 0.95, 64))
    calm = rollout_worker.sample(request)
    versions: set[int] = set()
    for round_ in range(3):
        with pushes(rollout_worker, lambda version: policies.weights(version, 0), round_) as pushed:
            stormy = rollout_worker.sample(request)
        assert np.array_equal(calm.token_ids, stormy.token_ids) and np.array_equal(calm.lengths, stormy.lengths)
        assert np.array_equal(calm.behavior_logprobs, stormy.behavior_logprobs)
        assert pushed
        versions |= set(stormy.versions.tolist())
    assert len(versions) > (2 if way is OnWeightSync.drain else 8)


def test_concurrent_batches_do_not_mix(rollout_worker: RolloutWorker, policies: Policies) -> None:
    """Several callers, also more sequences than run at one time, and pushes: each gets what it gets alone."""
    requests = [
        rollout_request(make_prompts(20, seed=i), 4, SamplingParams(1.0, 1.0, 16 + 8 * i), i, i) for i in range(5)
    ]
    alone = [rollout_worker.sample(one) for one in requests]
    with pushes(rollout_worker, lambda v: policies.weights(v, 0), 5), ThreadPoolExecutor(5) as pool:
        together = list(pool.map(rollout_worker.sample, requests))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.token_ids, other.token_ids) and np.array_equal(
            one.behavior_logprobs, other.behavior_logprobs
        )


# ---------------------------------------------------------------------- what is cached


def test_cached_prompts_of_other_weights_are_never_used(
    rollout_worker: RolloutWorker, way: OnWeightSync, policies: Policies
) -> None:
    """The same long prompts for every version, while sequences that began with them are still under way."""
    prompts = make_prompts(6, length=300)
    long = rollout_request(prompts, 2, SamplingParams(1.0, 1.0, 400), batch=9)
    sampled = []
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(rollout_worker.sample, long)
        for version in range(1, 6):
            time.sleep(0.05)
            rollout_worker.load(policies.weights(version, 1 + version % 2))
            request = rollout_request(prompts, 2, SamplingParams(1.0, 1.0, 6), batch=version, step=version)
            sampled.append((version, request, rollout_worker.sample(request)))
        if way is not OnWeightSync.drain:
            assert under_way.result().versions.max() >= 3  # they were under way
    for version, request, result in sampled:
        assert set(result.versions.tolist()) == {version}
        for t in complete(request, result):
            expected = whole_prefix(policies, t, [1 + version % 2] * len(t.token_ids))
            assert np.abs(t.behavior_logprobs - expected).max() <= BOUND, version


def test_cached_prompts_of_other_weights_with_the_same_version_are_never_used(
    rollout_worker: RolloutWorker, policies: Policies
) -> None:
    """Nor from that of weights with the same number."""
    prompts, sampled = make_prompts(6, length=300), []
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(
            rollout_worker.sample, rollout_request(prompts, 2, SamplingParams(1.0, 1.0, 400), batch=9)
        )
        for variant in (1, 2, 3):
            rollout_worker.load(policies.weights(7, variant))
            request = rollout_request(prompts, 2, SamplingParams(1.0, 1.0, 6), batch=variant, step=variant)
            sampled.append((variant, request, rollout_worker.sample(request)))
        assert not under_way.done()
        rollout_worker.abort(9)
    for variant, request, result in sampled:
        for t in complete(request, result):
            expected = whole_prefix(policies, t, [variant] * len(t.token_ids))
            assert np.abs(t.behavior_logprobs - expected).max() <= BOUND, variant


@pytest.fixture(scope="module")
def tight(tiny_model: Path, make_worker: MakeWorker) -> RolloutWorker:
    """A key-value cache of two thousand tokens."""
    return make_worker(
        tiny_model, RolloutConf(max_model_len=512, max_num_batched_tokens=512, max_num_seqs=64, kv_cache_gib=0.003)
    )


def test_waiting_sequences_begin_by_the_new_weights(
    tight: RolloutWorker, policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin by the new weights as a whole, although siblings of the same prompt run with the old ones' cache."""
    dropped = preempted(tight.engine, monkeypatch)
    tight.load(policies.weights(tight.ready() + 1))
    request = rollout_request(make_prompts(8, length=190), 8, SamplingParams(1.0, 1.0, 50))
    with pushes(tight, policies.weights, 7, most=10):
        trajectories = complete(request, tight.sample(request))
    assert len({int(t.versions[0]) for t in trajectories}) > 2 and not dropped
    for t in trajectories:
        assert np.abs(t.behavior_logprobs - kept_cache(policies, t, t.versions.tolist())).max() <= BOUND


@pytest.mark.parametrize(
    "chosen", [OnWeightSync.recompute, seldom(OnWeightSync.keep), seldom(OnWeightSync.drain)], ids=lambda way: way.value
)
def test_preempted_sequences_resume_by_the_weights_of_each_token(
    tight: RolloutWorker, rollout_worker: RolloutWorker, policies: Policies, chosen: OnWeightSync,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same weights: the same bits. Others: each token by its version's, where keys and values are recomputed."""
    monkeypatch.setattr(tight.conf, "on_weight_sync", chosen)
    dropped = preempted(tight.engine, monkeypatch)
    request = rollout_request(make_prompts(10), 4, SamplingParams(1.0, 1.0, 300))
    calm = rollout_worker.sample(request)
    tight.load(policies.weights(tight.ready() + 1, 0))
    tight.take_status()
    with pushes(tight, lambda v: policies.weights(v, 0), 1, most=20):
        stormy = tight.sample(request)
    for_memory = [k for k in dropped if not k.get("drop_stale_output")]
    assert for_memory and tight.take_status().preemptions == len(for_memory)
    assert np.array_equal(calm.token_ids, stormy.token_ids) and np.array_equal(
        calm.behavior_logprobs, stormy.behavior_logprobs
    )
    tight.load(policies.weights(tight.ready() + 1))
    with pushes(tight, policies.weights, 2, most=20):
        trajectories = complete(request, tight.sample(request))
    for t in trajectories:
        versions = t.versions.tolist()
        assert versions == sorted(versions)
        if chosen is not OnWeightSync.keep:
            assert np.abs(t.behavior_logprobs - whole_prefix(policies, t, versions)).max() <= BOUND
