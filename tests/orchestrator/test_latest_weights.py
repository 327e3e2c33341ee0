"""Weights through Ray's object store: unaffected by later updates, and available to restarted workers."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from conf.schema import AlgorithmConf, ClusterConf, LearnerConf, ModelConf
from learner.data.batch import Sequence, Totals
from learner.data.pack import pack
from learner.learner import Learner
from learner.worker import LearnerWorker
from orchestrator.base.errors import ActorDied
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.handles import RayFuture, RayHandle, wait_all
from orchestrator.cluster.latest_weights import LatestWeights
from rollout.weight_sync.weights import Weights, views

pytestmark = pytest.mark.heavy

PATIENCE_S = 120.0


class Worker:
    """Starts as a rollout worker does: with the weights that `current` gives."""

    def __init__(self, current: Callable[[], Weights | None] | None):
        self.weights = current() if current else None

    def version(self) -> int | None:
        return self.weights.version if self.weights else None

    def sum(self) -> float:
        assert self.weights is not None
        return float(sum(tensor.double().sum() for _, tensor in self.weights.tensors()))

    def load(self, weights: Weights) -> dict[str, np.ndarray]:
        self.weights = weights
        return {name: tensor.float().numpy().copy() for name, tensor in weights.tensors()}

    def pid(self) -> int:
        return os.getpid()


class WeightSender:
    def make(self, version: int, until: str | None = None) -> Weights:
        while until and not Path(until).exists():
            time.sleep(0.05)
        return views([("a", torch.full((300_000,), float(version)))], version).copy()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.chdir(Path(__file__).parents[2])  # Ray gives its workers the driver's folder to import from
    with Cluster(ClusterConf(object_store_gib=0.3)) as entered:
        yield entered


def actor(body: type, *args: Any, **options: Any) -> RayHandle:
    made: Any = ray.remote(body).options(num_cpus=0, **options).remote(*args)
    return RayHandle(made, body.__name__, PATIENCE_S)


def eventually(ask: Callable[[], Any], expected: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    found = None
    while time.monotonic() < deadline:
        try:
            found = ask()
        except ActorDied:  # it is starting again
            found = None
        if found == expected:
            return
        time.sleep(0.1)
    raise AssertionError(f"still {found}, not {expected}")


def test_a_restarted_worker_has_the_newest_weights(cluster: Cluster) -> None:
    latest_weights, publisher = LatestWeights(), actor(WeightSender)
    worker = actor(Worker, latest_weights.current, max_restarts=-1)
    assert worker.call("version").wait() is None  # nothing has been posted
    for version in (1, 2, 3):
        latest_weights.post(version, publisher.call("make", version))
    eventually(lambda: getattr(latest_weights.current(), "version", None), 3)
    for _ in range(2):
        pid = worker.call("pid").wait()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: worker.call("version").wait(), 3)
        assert worker.call("pid").wait() != pid
        assert worker.call("sum").wait() == 3 * 300_000


def test_a_restarting_worker_does_not_wait_for_weights_in_flight(cluster: Cluster, tmp_path: Path) -> None:
    """Weights that are still under way may be waiting for this very worker: it takes the ones before."""
    latest_weights, publisher = LatestWeights(), actor(WeightSender)
    first = publisher.call("make", 7)
    latest_weights.post(7, first)
    first.wait()
    slow = publisher.call("make", 8, str(tmp_path / "done"))
    latest_weights.post(8, slow)
    assert actor(Worker, latest_weights.current).call("version").wait() == 7
    (tmp_path / "done").touch()
    slow.wait()
    assert actor(Worker, latest_weights.current).call("version").wait() == 8


def test_a_worker_is_told_whether_its_gpus_are_free_for_its_start(cluster: Cluster) -> None:
    latest_weights = LatestWeights()
    assert latest_weights.current.may_start()  # nobody has them at the beginning
    for free in (False, True, False):
        latest_weights.let_start(free)
        assert latest_weights.current.may_start() is free


def test_only_one_version_stays_in_the_object_store(cluster: Cluster) -> None:
    """One version stays in the object store, however many were posted."""
    gc.collect()  # errors of killed workers, which the tests before caught, hold their handles in cycles of frames
    eventually(lambda: store_bytes() < 1_200_000, True)  # of the tests before
    latest_weights, publisher = LatestWeights(), actor(WeightSender)
    for version in range(20):
        future = publisher.call("make", version)
        latest_weights.post(version, future)
        future.wait()
    del future
    eventually(lambda: 1_200_000 <= store_bytes() < 2 * 1_200_000, True)


def store_bytes() -> int:
    """Bytes in use in this host's object store."""
    from ray._private.internal_api import node_stats

    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.object_store_bytes_used)


def test_a_lost_actor_is_an_error_and_not_old_weights(cluster: Cluster) -> None:
    latest_weights = LatestWeights(timeout_s=20.0)
    assert latest_weights.current() is None
    ray.kill(latest_weights._actor)
    with pytest.raises(ActorDied, match="actor of the latest weights"):
        latest_weights.current()


def test_published_weights_are_unaffected_by_later_updates(cluster: Cluster, tiny_model: Path) -> None:
    """The learner's own memory is handed to Ray, and the next call changes it: the copy is made in between."""
    conf = LearnerConf(lr=0.1)
    rank = actor(LearnerWorker, conf, ModelConf(), str(tiny_model), 0, 1.0, 100)
    learner = Learner([rank], conf, wait_all=wait_all)
    learner.start(None, reference=False)
    ids = np.arange(8, 40, dtype=np.int32)
    ones = np.ones(24, np.float32)
    sequence = Sequence(ids, 8, ones / 24, ones, 1.0, -ones, -1)
    batch = pack([sequence], Totals(1, 24, 24), conf.max_tokens, 1)
    receivers = [actor(Worker, None), actor(Worker, None)]
    before = receivers[0].call("load", rank.call("publish", 0)).wait()
    for step in range(3):
        published = rank.call("publish", step)  # of what the last update left
        report = learner.apply([batch], AlgorithmConf(kl=0.0, optimizer_steps=1))  # requested at once
        assert report is not None and not report.skipped
        arrived = wait_all([receiver.call("load", published) for receiver in receivers])
        for one in arrived:
            assert all(np.array_equal(one[name], before[name]) for name in before), step
        later: RayFuture = rank.call("publish", step + 1)
        before_next = receivers[0].call("load", later).wait()
        assert any(not np.array_equal(before_next[name], before[name]) for name in before), step
        before = before_next
