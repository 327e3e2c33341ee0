"""An engine over two processes samples the same as an engine in one, before and after a weight sync."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conf.schema import RolloutConf
from rollout.prompt import Prompt
from rollout.request import RolloutResult, SamplingParams
from rollout.weight_sync.weights import views
from rollout.worker import RolloutWorker
from tests.helpers.engines import TIED, MakeWorker, policy_weights, rollout_request
from tests.helpers.prompts import make_prompts

CLOSE = 1e-4  # nats: the same sums in another order


def sample(worker: RolloutWorker, prompts: list[Prompt]) -> RolloutResult:
    return worker.sample(rollout_request(prompts, 4, SamplingParams(0.6, 1.0, 24)))


def alike(one: RolloutResult, other: RolloutResult) -> None:
    assert np.array_equal(one.token_ids, other.token_ids) and np.array_equal(one.versions, other.versions)
    assert np.abs(one.behavior_logprobs - other.behavior_logprobs).max() < CLOSE


def test_two_processes_sample_the_same_as_one(
    tiny_model: Path,
    rollout_worker: RolloutWorker,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights reach both, in many pieces as well as in one: half of every layer lies in each. The second ones come
    while they sleep."""
    prompts = make_prompts(8)
    there = {path.name for path in Path("/dev/shm").glob("vllm_dist_*")}
    spread = make_worker(tiny_model, RolloutConf(kv_cache_gib=0.25, tensor_parallel=2))
    before = sample(rollout_worker, prompts)
    alike(before, sample(spread, prompts))
    assert {
        path.name for path in Path("/dev/shm").glob("vllm_dist_*")
    } <= there  # its names are gone, if not its memory

    named = policy_weights(tiny_model)
    rng = np.random.default_rng(0)
    for version, bucket in ((1, 70_000), (2, 2**28)):
        for _, tensor in named:
            tensor += 0.02 * tensor.new_tensor(rng.normal(size=tensor.shape))
        weights = views(named, version, TIED).copy()
        monkeypatch.setattr("rollout.weight_sync.vllm_receiver.BUCKET", bucket)
        rollout_worker.load(weights)
        if version == 2:
            spread.sleep(False), spread.wake(["weights"])  # type: ignore[func-returns-value]
        spread.load(weights)
        spread.wake()
        after = sample(rollout_worker, prompts)
        alike(after, sample(spread, prompts))
        assert not np.array_equal(after.token_ids, before.token_ids) and set(after.versions.tolist()) == {version}
        before = after
