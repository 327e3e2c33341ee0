"""`WeightSync`: which calls go to whom, what is waited for and when, and whose error is raised where."""

from __future__ import annotations

from typing import Any

import pytest

from conf.schema import Transport
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.weight_sync.sync import WeightSync
from rollout.weight_sync.weights import Offer, Route


class Pending:
    """A call that ends when it is waited for."""

    def __init__(self, name: str, events: list[str], error: Exception | None = None):
        self.name, self.events, self.error = name, events, error

    def wait(self) -> Any:
        self.events.append(self.name)
        if self.error is not None:
            raise self.error
        return self.name

    def done(self) -> bool:
        return False


class Actor:
    """Notes its calls, and when they are waited for."""

    def __init__(self, name: str, events: list[str], error: Exception | None = None):
        self.name, self.events, self.error = name, events, error
        self.calls: list[tuple[Any, ...]] = []

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Pending:
        self.calls.append((method, *args))
        return Pending(f"{self.name} {method} {len(self.calls)}", self.events, self.error)


class Parts:
    """Two ranks and two workers, and what happened to them in order."""

    def __init__(self, error: Exception | None = None):
        self.events: list[str] = []
        self.ranks = [Actor(f"rank {i}", self.events) for i in range(2)]
        self.workers = [Actor(f"worker {i}", self.events, error) for i in range(2)]
        self.sampler = Sampler(self.workers, SamplingParams(1.0, 1.0, 8))
        self.posted: list[tuple[int, Any]] = []

    def sync(self, synchronous: bool, **more: Any) -> WeightSync:
        return WeightSync(
            self.ranks,
            self.sampler,
            synchronous,
            post=lambda version, kept: self.posted.append((version, kept)),
            **more,
        )


def test_object_store_weights_go_to_every_worker_and_not_through_the_driver() -> None:
    parts = Parts()
    parts.sync(synchronous=True).start(3)
    ((posted_version, weights),) = parts.posted
    assert posted_version == 3 and weights.name == "rank 0 publish 1"
    assert [rank.calls for rank in parts.ranks] == [[("publish", 3)]] * 2  # all ranks gather under ZeRO-3
    assert all(worker.calls == [("load", weights)] for worker in parts.workers)
    assert parts.events == ["worker 0 load 1", "worker 1 load 1", "rank 1 publish 1"]  # rank 0's is not fetched
    assert parts.sampler.version == 3


def test_each_worker_is_offered_the_endpoints_under_its_name() -> None:
    parts = Parts()
    route = Route(Transport.nccl, 2, keep=True)
    weight_sync = parts.sync(synchronous=True, route=route)
    for version in (0, 1):
        weight_sync.start(version)
    endpoints = ("rank 0 open_endpoint 1", "rank 1 open_endpoint 1")
    for index, worker in enumerate(parts.workers):
        offers = [Offer(version, route, endpoints, f"rollout worker {index}") for version in (0, 1)]  # type: ignore[arg-type]
        assert worker.calls == [("load", offer) for offer in offers]
    assert all(rank.calls == [("open_endpoint", route), ("send", 0), ("send", 1)] for rank in parts.ranks)
    assert parts.events[-4:] == ["worker 0 load 2", "worker 1 load 2", "rank 0 send 3", "rank 1 send 3"]
    assert [(version, kept.name) for version, kept in parts.posted] == [(0, "rank 0 send 2"), (1, "rank 0 send 3")]


def test_an_asynchronous_sync_is_waited_for_by_the_next_one() -> None:
    parts = Parts()
    weight_sync = parts.sync(synchronous=False)
    weight_sync.start(1)
    assert parts.events == [] and parts.sampler.version == 1
    weight_sync.start(2)
    assert parts.events == ["worker 0 load 1", "worker 1 load 1", "rank 1 publish 1"]
    weight_sync.wait()
    assert parts.events[3:] == ["worker 0 load 2", "worker 1 load 2", "rank 1 publish 2"]
    weight_sync.wait()
    assert len(parts.events) == 6


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_failed_load_is_raised_before_anything_else_is_sent(synchronous: bool) -> None:
    parts = Parts(error=ConnectionError("rollout worker 0 cannot reach learner rank 0"))
    weight_sync = parts.sync(synchronous)
    with pytest.raises(ConnectionError, match="rollout worker 0"):
        weight_sync.start(1)
        weight_sync.start(2)
    assert [len(rank.calls) for rank in parts.ranks] == [1, 1]


def test_shared_gpus_are_handed_over_between_two_syncs() -> None:
    """The previous version has been loaded, and the next one is not yet published."""
    parts = Parts()

    class Sharing:
        def pushing(self) -> None:
            parts.events.append(f"pushing after {len(parts.ranks[0].calls)} calls")

    parts.sampler.gpu_sharing = Sharing()  # type: ignore[assignment]
    weight_sync = parts.sync(synchronous=False)
    weight_sync.start(1)
    weight_sync.start(2)
    assert parts.events == [
        "pushing after 0 calls",
        "worker 0 load 1",
        "worker 1 load 1",
        "rank 1 publish 1",
        "pushing after 1 calls",
    ]


class Recovers:
    """Of the errors that calls end in, the first few come of lost ranks, which are replaced at once."""

    def __init__(self, parts: Parts, losses: int):
        self.parts, self.left, self.sync = parts, losses, None

    def __call__(self, error: Exception) -> bool:
        if not self.left:
            return False
        self.left -= 1
        self.parts.events.append(str(error))
        if not self.left:
            for worker in self.parts.workers:
                worker.error = None
        self.sync.again()  # type: ignore[attr-defined]
        return True


@pytest.mark.parametrize("losses", [1, 3])
@pytest.mark.parametrize("synchronous", [True, False])
def test_weights_of_lost_ranks_are_sent_again_by_new_ones(synchronous: bool, losses: int) -> None:
    """To all workers, from new endpoints, under the version that the learner stands at by then."""
    parts = Parts(error=ConnectionError("learner rank 0 hung up or died"))
    recovers = Recovers(parts, losses)
    route = Route(Transport.nccl, 2)
    weight_sync = parts.sync(synchronous, route=route, recovered=recovers)
    recovers.sync = weight_sync  # type: ignore[assignment]
    weight_sync.start(1)
    weight_sync.start(2)
    weight_sync.wait()
    sent = [version for method, version in parts.ranks[0].calls if method == "send"]
    assert sent == ([1] * (losses + 1) + [2] if synchronous else [1] + [2] * losses + [2])
    assert [method for method, _ in parts.ranks[1].calls].count("open_endpoint") == 1 + losses
    for worker in parts.workers:
        offers = [offer for _, offer in worker.calls]
        assert [offer.version for offer in offers] == sent
        assert len({offer.endpoints for offer in offers}) == 1 + losses  # each of the ranks that sent it
    assert parts.sampler.version == 2


def test_weights_that_have_arrived_are_not_sent_again() -> None:
    parts = Parts()
    weight_sync = parts.sync(synchronous=True)
    weight_sync.start(1)
    weight_sync.again()
    assert [rank.calls for rank in parts.ranks] == [[("publish", 1)]] * 2


def test_ranks_that_are_lost_while_others_replace_them_are_sent_for_once() -> None:
    """Within the hand-over of shared GPUs: what mends the second loss sends the weights."""
    parts = Parts(error=ConnectionError("learner rank 0 hung up or died"))
    recovers = Recovers(parts, 1)

    class Sharing:
        lost = False

        def pushing(self) -> None:
            if parts.events and not self.lost:
                self.lost = True
                weight_sync.again()

    parts.sampler.gpu_sharing = sharing = Sharing()  # type: ignore[assignment]
    weight_sync = parts.sync(synchronous=True, recovered=recovers)
    recovers.sync = weight_sync  # type: ignore[assignment]
    weight_sync.start(1)
    assert sharing.lost and [version for _, version in parts.ranks[0].calls] == [1, 1]


def test_what_was_on_its_way_from_ranks_with_other_weights_is_forgotten() -> None:
    """A warm-up goes on from an earlier step: its next evaluation sends that one's weights."""
    parts = Parts(error=ConnectionError("learner rank 0 hung up or died"))
    weight_sync = parts.sync(synchronous=True, route=Route(Transport.nccl, 2))
    with pytest.raises(ConnectionError):
        weight_sync.start(200)
    for worker in parts.workers:
        worker.error = None
    weight_sync.forget()
    weight_sync.wait()
    weight_sync.start(180)
    assert [offer.version for _, offer in parts.workers[0].calls] == [200, 180]
    assert [method for method, _ in parts.ranks[1].calls].count("open_endpoint") == 2


def test_an_error_that_is_no_loss_is_raised() -> None:
    parts = Parts(error=ConnectionError("rollout worker 0 died"))
    weight_sync = parts.sync(synchronous=True, recovered=Recovers(parts, 0))
    with pytest.raises(ConnectionError, match="rollout worker 0 died"):
        weight_sync.start(1)


def test_who_is_in_a_hurry_waits_for_the_weights_or_gets_their_error() -> None:
    """Not for answers that nobody can sample."""
    parts = Parts()
    parts.sync(synchronous=False).start(1)
    parts.sampler.sample([], 1, 0)
    assert parts.events == []
    parts.sampler.sample([], 1, 0, urgent=True)
    assert parts.events == ["worker 0 load 1", "worker 1 load 1", "rank 1 publish 1"]
    failing = Parts(error=ConnectionError("learner rank 0 died"))
    failing.sync(synchronous=False).start(1)
    with pytest.raises(ConnectionError, match="learner rank 0 died"):
        failing.sampler.sample([], 1, 0, urgent=True)
