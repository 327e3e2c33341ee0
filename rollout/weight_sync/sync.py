"""The loop's weight sync: the learner's weights of one version after the other, in all samplers.

In: a version. Out: nothing; after `wait` every sampler has it. Must not know: transports, Ray, what a step is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rollout.base.handle import Future
from rollout.base.spans import FOR_WEIGHTS, Spans
from rollout.weight_sync.weights import Push


class Publishes(Protocol):
    def publish(self, version: int) -> Push: ...


class Loads(Protocol):
    def load(self, push: Push, version: int) -> list[Future]: ...


class WeightSync:
    """synchronous: `start` returns once the samplers have the weights (strictly on-policy); otherwise they arrive while
    the next step goes on, and the start of the next sync waits for them: at most one is under way."""

    def __init__(
        self,
        learner: Publishes,
        sampler: Loads,
        synchronous: bool,
        wait_all: Callable[[list[Any]], Any],
        spans: Spans | None = None,
    ):
        """wait_all: waits for all futures, raising the first failure at once. spans: where the waiting is recorded."""
        self.learner, self.sampler, self.synchronous, self.wait_all = learner, sampler, synchronous, wait_all
        self.spans = spans or Spans()
        self._under_way: list[Future] = []

    def start(self, version: int) -> None:
        """Send the learner's current weights to all samplers as `version`. Raises what went wrong with the last one."""
        with self.spans.of(FOR_WEIGHTS):
            self.wait()
            self._under_way = self.sampler.load(self.learner.publish(version), version)
            if self.synchronous:
                self.wait()

    def wait(self) -> None:
        """Until all samplers have the version that was started last. Raises TimeoutError or ConnectionError that name
        both sides, BadInput when vLLM cannot take the weights."""
        self.wait_all(self._under_way)
        self._under_way = []
