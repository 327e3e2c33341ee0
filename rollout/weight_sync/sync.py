"""The loop's weight sync: sends each version of the learner's weights to all rollout workers.

In: a version. Out: nothing; after `wait` every sampler has it. Must not know: transports, Ray, what a step is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rollout.base.handle import Future
from rollout.base.spans import FOR_WEIGHTS, Spans
from rollout.weight_sync.weights import Push


class Publisher(Protocol):
    def publish(self, version: int) -> Push: ...


class Loader(Protocol):
    def load(self, push: Push, version: int) -> list[Future]: ...


class WeightSync:
    """At most one sync is in flight.

    synchronous: `start` returns once the samplers have the weights (strictly on-policy); otherwise they arrive while
    the next step goes on, and the next `start` waits for them."""

    def __init__(
        self,
        learner: Publisher,
        sampler: Loader,
        synchronous: bool,
        wait_all: Callable[[list[Any]], Any],
        spans: Spans | None = None,
    ):
        """wait_all: waits for all futures, raising the first failure at once. spans: where the waiting is recorded."""
        self.learner, self.sampler, self.synchronous, self.wait_all = learner, sampler, synchronous, wait_all
        self.spans = spans or Spans()
        self._in_flight: list[Future] = []

    def start(self, version: int) -> None:
        """Send the learner's current weights to all samplers as `version`. Re-raises the previous sync's error."""
        with self.spans.of(FOR_WEIGHTS):
            self.wait()
            self._in_flight = self.sampler.load(self.learner.publish(version), version)
            if self.synchronous:
                self.wait()

    def wait(self) -> None:
        """Wait until all samplers have the version that was started last.

        Raises TimeoutError or ConnectionError that name both sides, BadInput when vLLM cannot take the weights.
        """
        self.wait_all(self._in_flight)
        self._in_flight = []
