"""Placement on 1, 2, 4, 8 and n GPUs and on CPUs, as plans without Ray; then which GPUs actors see on a Ray with four
GPUs that exist only in its settings.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from conf.schema import Device, LearnerConf, Placement, RewardConf, RolloutConf
from orchestrator.cluster.placement import Plan, Role, plan

pytestmark = pytest.mark.heavy

SPLIT, SHARED = Placement.disaggregated, Placement.colocated


def rollout(workers: int, many: int = 1, device: Device = Device.gpu, gpus: float = 1.0, cpus: float = 2.0) -> Any:
    return RolloutConf(workers=workers, tensor_parallel=many, device=device, num_gpus=gpus, num_cpus=cpus)


def learner(ranks: int, device: Device = Device.gpu, gpus: float = 1.0, cpus: float = 1.0) -> LearnerConf:
    return LearnerConf(ranks=ranks, device=device, num_gpus=gpus, num_cpus=cpus)


REWARD = RewardConf(workers=2, num_cpus=0.5)


def fits(made: Plan) -> None:
    """What the seats of a bundle take together is what the bundle has, CPUs and GPUs alike."""
    for index, bundle in enumerate(made.bundles):
        inside = [seat for seats in made.seats.values() for seat in seats if seat.bundle == index]
        assert sum(seat.cpus for seat in inside) == pytest.approx(bundle["CPU"])
        assert sum(seat.gpus for seat in inside) == pytest.approx(bundle.get("GPU", 0))


@pytest.mark.parametrize(("samplers", "gpus"), [(1, 2), (1, 4), (2, 4), (5, 8), (5, 23)])
def test_disaggregated_placement_gives_every_worker_its_own_gpus(samplers: int, gpus: int) -> None:
    made = plan(SPLIT, rollout(samplers), learner(gpus - samplers), REWARD)
    fits(made)
    assert made.needs("GPU") == gpus and made.needs("CPU") == 2 * samplers + (gpus - samplers) + 1
    seats = [*made.seats[Role.rollout], *made.seats[Role.learner]]
    assert len({seat.bundle for seat in seats}) == gpus and all(seat.gpus == 1 for seat in seats)
    assert not any(seat.beside for seat in seats)
    assert [seat.gpus for seat in made.seats[Role.reward]] == [0, 0]
    assert made.parts("GPU") == {"rollout.workers": (samplers, 1), "learner.ranks": (gpus - samplers, 1)}


def test_a_tensor_parallel_sampler_is_one_bundle() -> None:
    made = plan(SPLIT, rollout(2, many=2), learner(4), REWARD)
    fits(made)
    assert [made.bundles[seat.bundle] for seat in made.seats[Role.rollout]] == [{"CPU": 4, "GPU": 2}] * 2
    assert made.needs("GPU") == 8


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 23])
def test_colocated_placement_puts_a_rank_and_a_sampler_on_every_gpu(gpus: int) -> None:
    made = plan(SHARED, rollout(gpus), learner(gpus), REWARD)
    fits(made)
    assert made.bundles[:gpus] == ({"CPU": 3, "GPU": 1},) * gpus and made.needs("GPU") == gpus
    for role in (Role.rollout, Role.learner):
        assert [(seat.bundle, seat.gpus) for seat in made.seats[role]] == [(i, 0.5) for i in range(gpus)]


@pytest.mark.parametrize(("workers", "many"), [(2, 2), (1, 4), (2, 4), (3, 8)])
def test_colocated_tensor_parallel_samplers_use_their_bundles_gpus(workers: int, many: int) -> None:
    """Every rank has a GPU of its own; the samplers use those of the ranks in their bundle, all of them, once."""
    made = plan(SHARED, rollout(workers, many), learner(workers * many), None)
    fits(made)
    assert made.bundles == ({"CPU": 2 * many + many, "GPU": many},) * workers
    assert all(seat.gpus == 1 for seat in made.seats[Role.learner])
    assert [seat.gpus for seat in made.seats[Role.rollout]] == [0] * workers
    assert [r for seat in made.seats[Role.rollout] for r in seat.beside] == list(range(workers * many))
    for seat in made.seats[Role.rollout]:
        assert {made.seats[Role.learner][r].bundle for r in seat.beside} == {seat.bundle}


@pytest.mark.parametrize("placement", [SPLIT, SHARED])
def test_without_gpus_only_cpus_are_reserved(placement: Placement) -> None:
    made = plan(placement, rollout(2, device=Device.cpu, cpus=0.4), learner(2, Device.cpu, cpus=0.4), RewardConf())
    fits(made)
    assert made.needs("GPU") == 0 and made.needs("CPU") == pytest.approx(1.7)
    assert not any("GPU" in bundle for bundle in made.bundles) and made.parts("GPU") == {}


def test_a_warm_up_or_an_evaluation_has_whole_gpus_in_any_placement() -> None:
    for placement in (SPLIT, SHARED):
        assert plan(placement, learner=learner(4)).bundles == ({"CPU": 1, "GPU": 1},) * 4
        assert plan(placement, rollout=rollout(2, 2)).bundles == ({"CPU": 4, "GPU": 2},) * 2


def test_fractions_fit_both_on_one_gpu() -> None:
    """Both stay in memory at one time: small models, no turns."""
    made = plan(SPLIT, rollout(1, gpus=0.5), learner(1, gpus=0.5))
    assert made.needs("GPU") == 1 and len(made.bundles) == 2


def test_numbers_that_do_not_pair_are_rejected() -> None:
    with pytest.raises(ValueError, match="2 x 2 sampler GPUs do not pair with 3 learner ranks"):
        plan(SHARED, rollout(2, 2), learner(3))


# ---- carried out ----


class Body:
    """An actor that tells what it was given."""

    def __init__(self, *arguments: Any, host: Any = None):
        self.arguments, self.host = arguments, host

    def address(self) -> str:
        return str(self.host())

    def interfaces(self) -> list[str | None]:
        import os

        return [os.environ.get(f"{library}_SOCKET_IFNAME") for library in ("NCCL", "GLOO")]

    def ready(self) -> int:
        return 1

    def close(self) -> None: ...

    def gpus(self) -> str:
        import os

        return os.environ.get("CUDA_VISIBLE_DEVICES", "none")

    def threads(self) -> str:
        import os

        return os.environ["OMP_NUM_THREADS"]

    def sample(self) -> bool:
        """Until the weights are there."""
        import time

        for _ in range(6000):
            if hasattr(self, "loaded"):
                return True
            time.sleep(0.01)
        return False

    def load(self) -> bool:
        self.loaded = True
        return True


def shipped() -> type:
    """`Body` by value: this test file is no module that a worker could import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(__import__("sys").modules[Body.__module__])
    return Body


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`four_gpus(placement)`: a `Cluster` on a private Ray of 16 CPUs and 4 GPUs that exist only in its settings."""
    from conf.schema import ClusterConf
    from orchestrator.cluster.cluster import Cluster

    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 16, "GPU": 4}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    entered = []

    def make(placement: Placement, interface: str | None = None) -> Cluster:
        conf = ClusterConf(object_store_gib=0.1, placement=placement, start_timeout_s=20.0, network_interface=interface)
        entered.append(Cluster(conf).__enter__())
        return entered[-1]

    yield make
    for cluster in entered:
        cluster.__exit__(None, None, None)


def seen(handles: list[Any]) -> list[str]:
    from orchestrator.cluster.handles import wait_all

    return [str(gpus) for gpus in wait_all([handle.call("gpus", timeout_s=60.0) for handle in handles])]


def test_disaggregated_actors_see_their_own_gpus(four_gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.base.errors import BadInput

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)  # a learner rank in this process chose one for itself
    cluster, body = four_gpus(SPLIT), shipped()
    warming = cluster.learner_ranks(learner(4), body, [[]] * 4)  # a warm-up takes all of them, and gives them back
    assert sorted(seen(warming)) == ["0", "1", "2", "3"]
    cluster.release(warming)

    cluster.reserve(rollout(1, many=2), learner(2), REWARD)
    ranks = cluster.learner_ranks(learner(2), body, [[r] for r in range(2)])
    (worker,) = cluster.rollout_workers(rollout(1, many=2), body, [])
    judges = cluster.reward_actors(REWARD, body, [])
    import ray

    (node,) = ray.nodes()  # the address by which Ray knows it, whatever the host's name resolves to
    assert {rank.call("address", timeout_s=60.0).wait() for rank in ranks} == {node["NodeManagerAddress"]}
    assert node["NodeManagerAddress"] == "127.0.0.1"  # of a private one
    assert ranks[0].call("interfaces").wait() == worker.call("interfaces").wait() == ["=lo", "lo"]
    mine, others = seen([worker])[0].split(","), seen(ranks)
    assert sorted([*mine, *others]) == ["0", "1", "2", "3"] and len(mine) == 2
    assert len(judges) == 2 and worker.call("threads").wait() == "1"

    from orchestrator.cluster.actors import CALLS_AT_ONCE

    # however many calls wait in a rollout worker for weights, those that bring them come in beside them
    waiting = [worker.call("sample", timeout_s=60.0) for _ in range(CALLS_AT_ONCE + 10)]
    assert worker.call("load", timeout_s=60.0).wait() and all(one.wait() for one in waiting)

    with pytest.raises(BadInput, match=r"^learner.ranks=1 of 1 = 1 GPUs do not fit, .* has 4, 4 of them taken"):
        cluster.learner_ranks(learner(1), body, [[]])


def test_colocated_samplers_see_their_ranks_gpus(four_gpus: Any) -> None:
    """The sampler's GPUs are those of the ranks in its place, with one GPU each or with two."""
    cluster, body = four_gpus(SHARED), shipped()
    for workers, many in ((4, 1), (2, 2)):
        conf = rollout(workers, many, cpus=0.5)
        cluster.reserve(conf, learner(4), REWARD)
        ranks = cluster.learner_ranks(learner(4), body, [[r] for r in range(4)])
        samplers = cluster.rollout_workers(conf, body, [])
        theirs, ours = seen(ranks), seen(samplers)
        assert sorted(theirs) == ["0", "1", "2", "3"], "two learner ranks on one GPU"
        assert ours == [",".join(theirs[w * many : (w + 1) * many]) for w in range(workers)]
        assert Counter(gpu for one in ours for gpu in one.split(",")) == Counter(theirs)
        cluster.release(samplers)
        cluster.release(ranks)


def test_the_configured_network_interface_is_used(four_gpus: Any) -> None:
    """Ranks and samplers listen there, and NCCL and gloo take no other; one that a host lacks is named."""
    from rollout.base.errors import BadInput

    cluster, body = four_gpus(SPLIT, "lo"), shipped()
    (rank,), (worker,) = cluster.learner_ranks(learner(1), body, [[]]), cluster.rollout_workers(rollout(1), body, [])
    assert rank.call("address", timeout_s=60.0).wait() == "127.0.0.1"
    for one in (rank, worker):
        assert one.call("interfaces", timeout_s=60.0).wait() == ["=lo", "lo"]
    cluster.conf.network_interface = "lo:9"
    (other,) = cluster.learner_ranks(learner(1), body, [[]])
    with pytest.raises(BadInput, match=r"^cluster\.network_interface=lo:9: .* it has .*lo \(127\.0\.0\.1\)"):
        other.call("address", timeout_s=60.0).wait()


def test_a_cluster_that_is_too_small_is_rejected_before_anything_starts(four_gpus: Any) -> None:
    from rollout.base.errors import BadInput

    cluster = four_gpus(SPLIT)
    with pytest.raises(
        BadInput, match=r"^rollout.workers=2 of 1 \+ learner.ranks=3 of 1 = 5 GPUs do not fit, the clus"
    ):
        cluster.refuse_too_small(rollout(2), learner(3), REWARD)
    with pytest.raises(BadInput, match=r"learner.ranks=9 of 2 \+ .* CPUs do not fit, the cluster has 16; lower one of"):
        cluster.reserve(rollout(1), learner(9, Device.cpu, cpus=2.0), REWARD)
    cluster.reserve(rollout(2), learner(2), REWARD)
