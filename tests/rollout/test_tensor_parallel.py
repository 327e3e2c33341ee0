"""One engine over two processes: it samples what the engine in one process samples, before and after a push."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import RolloutConf
from rollout.request import RolloutRequest, RolloutResult, SamplingParams
from rollout.weight_sync.weights import views

CLOSE = 1e-4  # nats: the same sums in another order


def sample(worker: Any, prompts: list[Any]) -> RolloutResult:
    pairs = tuple((p, s) for p in range(len(prompts)) for s in range(4))
    return worker.sample(RolloutRequest(1, 0, 0, tuple(prompts), pairs, SamplingParams(0.6, 1.0, 24)))


def alike(one: RolloutResult, other: RolloutResult) -> None:
    assert np.array_equal(one.token_ids, other.token_ids) and np.array_equal(one.versions, other.versions)
    assert np.abs(one.behavior_logprobs - other.behavior_logprobs).max() < CLOSE


def test_two_processes_sample_what_one_samples(
    tiny_model: Path,
    rollout_worker: Any,
    make_worker: Callable[..., Any],
    make_prompts: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights reach both, in many pieces as well as in one: half of every layer lies in each."""
    from learner.model.policy import load_policy

    prompts = make_prompts(8)
    there = {path.name for path in Path("/dev/shm").glob("vllm_dist_*")}
    spread = make_worker(tiny_model, RolloutConf(kv_cache_gib=0.25, tensor_parallel=2))
    before = sample(rollout_worker, prompts)
    alike(before, sample(spread, prompts))
    assert {
        path.name for path in Path("/dev/shm").glob("vllm_dist_*")
    } <= there  # its names are gone, if not its memory

    policy = load_policy(str(tiny_model), "float32")
    rng = np.random.default_rng(0)
    for version, bucket in ((1, 2**28), (2, 70_000)):
        for parameter in policy.parameters():
            parameter.data += 0.02 * parameter.data.new_tensor(rng.normal(size=parameter.shape))
        named = [(policy.public_name(name), parameter.data) for name, parameter in policy.named_parameters()]
        weights = views(named, version, {"lm_head.weight": "model.embed_tokens.weight"}).copy()
        monkeypatch.setattr("rollout.weight_sync.vllm_receiver.BUCKET", bucket)
        spread.engine.receiver._outbox = None
        rollout_worker.load(weights)
        spread.load(weights)
        after = sample(rollout_worker, prompts)
        alike(after, sample(spread, prompts))
        assert not np.array_equal(after.token_ids, before.token_ids) and set(after.versions.tolist()) == {version}
        before = after
