"""The newest weights, kept for rollout workers that restart in the middle of a run; and whether their GPUs are free.

In: every push's `Weights` in the object store; who has the GPUs. Out: `FetchLatest`, which a worker calls when it
starts; the weights go from the object store to it, not through here. Must not know: what weights are, who trains.

A worker does not wait here for a push that has not arrived: it gets that one like all others. One small actor beside
the driver keeps the references. It is not restarted, since it would come back empty: a worker that calls it then fails
with its name, rather than go on with old weights, and so does the next hand-over of GPUs that are shared.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.base.errors import ActorDied
from orchestrator.cluster.handles import RayFuture, RayHandle

NAME = "actor of the latest weights"


class LatestWeights:
    """The driver's side. Needs Ray (an entered `Cluster`)."""

    def __init__(self, timeout_s: float = 600.0):
        """timeout_s: how long a worker, or the actor here, waits for the weights to arrive from another host."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        name = f"{NAME} {secrets.token_hex(8)}"
        self._actor: Any = (
            ray.remote(_LatestWeights).options(num_cpus=0, name=name, scheduling_strategy=here).remote(timeout_s)
        )
        self._handle = RayHandle(self._actor, NAME, timeout_s)
        self.current = FetchLatest(name, timeout_s)

    def post(self, version: int, weights: RayFuture) -> None:
        """`weights`, a call's result, will be the `Weights` of this version: `WeightSync(post=latest_weights.post)`."""
        self._actor.post.remote(version, [weights.ref])

    def let_start(self, free: bool) -> None:
        """Whether workers' GPUs are free for their start, from now on: `Colocation(let_start=...)`."""
        self._handle.call("let_start", free).wait()


@dataclass(frozen=True)
class FetchLatest:
    """A worker's side: calling it gives the newest `Weights` that are in the object store; None before the first.

    It knows the actor by name: with a reference to it in its arguments, Ray may be unable to restart a worker.
    """

    name: str
    timeout_s: float

    def may_start(self) -> bool:
        """Whether the worker's GPUs are free for its start."""
        return bool(self._ask("may_start"))

    def _ask(self, method: str) -> Any:
        try:
            latest_weights = ray.get_actor(self.name)
        except ValueError as error:
            raise ActorDied(f"the {NAME} has died, and the current weights are lost with it") from error
        return RayHandle(latest_weights, NAME, self.timeout_s).call(method).wait()

    def __call__(self) -> Any:
        found = self._ask("newest")
        if found is None:
            return None
        version, ref = found
        return RayFuture(ref, f"the weights of version {version} from the {NAME}", self.timeout_s).wait()


class _LatestWeights:
    """Holds the newest weights that have arrived, on this host (theirs may be lost), and references to those being
    pushed; and whether workers' GPUs are free."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._posted: list[tuple[int, Any]] = []  # oldest first
        self._held: Any = None  # views of the object store, which drops nothing that is viewed
        self._lock = threading.Lock()
        self._free = True

    def let_start(self, free: bool) -> None:
        self._free = free

    def may_start(self) -> bool:
        return self._free

    def post(self, version: int, refs: list[Any]) -> None:
        with self._lock:
            self._posted.append((version, refs[0]))
        threading.Thread(target=self._settle, args=(refs[0],), daemon=True).start()

    def newest(self) -> tuple[int, Any] | None:
        with self._lock:
            there = [(version, ref) for version, ref in self._posted if _there(ref, 0)]
            return there[-1] if there else None

    def _settle(self, ref: Any) -> None:
        """Once these weights have arrived, drop those before them."""
        _there(ref, None)
        try:
            weights = RayFuture(ref, "the weights", self._timeout_s).wait()
        except Exception:  # the learner is lost: who waits for the push says what comes of it
            return
        with self._lock:
            places = [place for place, (_, posted) in enumerate(self._posted) if posted == ref]
            if places:
                self._posted, self._held = self._posted[places[-1] :], weights


def _there(ref: Any, timeout_s: float | None) -> bool:
    done, _ = ray.wait([ref], timeout=timeout_s, fetch_local=False)
    return bool(done)
