"""What a rollout worker has instead of an engine while its GPU is not free for one.

In: calls that an engine gets while it sleeps. Out: nothing is done. Must not know: vLLM, who has the GPU.

A worker that starts again where sampler and learner share GPUs cannot start an engine while the learner is on them. It
is asked to sleep, to wake its weights, to take new ones: all that is for an engine that has memory of them. The engine
that takes the place of this one fetches the newest weights itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollout.weight_sync.handshake import decline
from rollout.weight_sync.weights import Offer, Weights


class DeferredEngine:
    version, awake = 0, False  # no weights; it sleeps

    def settle(self) -> list[tuple[int, object]]:
        return []

    def sleep(self, keep: bool) -> None:
        pass

    def wake(self, tags: Sequence[str] | None = None) -> None:
        pass

    def load(self, weights: Weights | Offer, recompute: bool = False) -> None:
        """Ranks that wait for this worker are told not to."""
        if isinstance(weights, Offer):
            decline(weights)

    def abort(self, keys: Sequence[int]) -> None:
        assert not keys, "nothing runs here"

    def close(self) -> None:
        pass
