"""The loop's weight sync: sends each version of the learner's weights to all rollout workers.

In: a version, and handles of both sides. Out: nothing; after `wait` every sampler has it. Weights do not come through
this process. Must not know: Ray, how bytes move, what a step is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from conf.schema import Transport
from rollout.base.handle import Future, Handle, WaitAll, in_order
from rollout.base.spans import FOR_WEIGHTS, Spans
from rollout.sampler import Sampler
from rollout.weight_sync.weights import Endpoint, Offer, Route, worker_name


class WeightSync:
    """At most one sync is in flight.

    synchronous: `start` returns once the samplers have the weights (strictly on-policy); otherwise they arrive while
    the next step goes on, and the next `start` waits for them."""

    def __init__(
        self,
        ranks: Sequence[Handle],
        sampler: Sampler,
        synchronous: bool,
        wait_all: WaitAll = in_order,
        route: Route | None = None,
        post: Callable[[int, Any], None] | None = None,
        spans: Spans | None = None,
        recovered: Callable[[Exception], bool] = lambda error: False,
    ):
        """ranks: the learner's, started. wait_all: waits for all futures, raising the first failure at once. route:
        how weights travel; None: through the object store. post: given version and future `Weights` of each sync, for
        workers that restart; needs `route.keep`. spans: where the waiting is recorded. recovered: whether an error came
        of lost ranks, and others have taken their place and called `again`."""
        self.ranks, self.sampler, self.synchronous, self.wait_all = ranks, sampler, synchronous, wait_all
        self.route, self.post, self.spans = route, post, spans or Spans()
        self.recovered = recovered
        self.endpoints: tuple[Endpoint, ...] = ()  # where workers fetch weights; none: they are in the object store
        self._open()
        self._in_flight: list[Future] = []
        self._version = 0  # the learner's, whose weights are sent, or will be next
        sampler.arrived = self.wait

    def start(self, version: int) -> None:
        """Send the learner's current weights to all samplers as `version`. Re-raises the previous sync's error."""
        with self.spans.of(FOR_WEIGHTS):
            self._version = version
            self.wait()
            self.sampler.gpu_sharing.pushing()
            self._in_flight = self._send(version)
            self.sampler.version = version  # what is requested from now on is sampled by it, or by newer weights
            if self.synchronous:
                self.wait()

    def wait(self) -> None:
        """Wait until all samplers have the version that was started last.

        Raises TimeoutError or ConnectionError that name both sides, BadInput when vLLM cannot take the weights.
        """
        while self._in_flight:
            try:
                self.wait_all(self._in_flight)
                self._in_flight = []
            except Exception as error:
                if not self.recovered(error):
                    raise

    def again(self) -> None:
        """The ranks are new ones, and have the same weights: those that were on their way are sent once more."""
        self._open()
        if before := self._in_flight:
            self.sampler.gpu_sharing.pushing()
            if self._in_flight is before:  # else ranks were lost in that, and others have sent them
                self._in_flight = self._send(self._version)

    def forget(self) -> None:
        """The ranks are new ones, and have other weights: what was on its way is of no use."""
        self._in_flight = []
        self._open()

    def _open(self) -> None:
        if self.route is not None and self.route.transport is not Transport.object_store:
            self.endpoints = tuple(self.wait_all([rank.call("open_endpoint", self.route) for rank in self.ranks]))

    def _send(self, version: int) -> list[Future]:
        """Both sides' calls, as futures to wait for."""
        workers, offers = self.sampler.workers, list[Any]()
        if self.endpoints:
            assert self.route is not None
            published = sending = [rank.call("send", version) for rank in self.ranks]
            names = map(worker_name, range(len(workers)))
            offers = [Offer(version, self.route, self.endpoints, name) for name in names]
        else:  # rank 0's result goes on to the workers; to wait for it would bring it here
            published = [rank.call("publish", version) for rank in self.ranks]
            offers, sending = [published[0]] * len(workers), published[1:]
        if self.post is not None:
            self.post(version, published[0])
        return [*(worker.call("load", offer) for worker, offer in zip(workers, offers, strict=True)), *sending]
