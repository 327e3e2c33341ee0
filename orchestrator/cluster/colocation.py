"""Sampler and learner on the same GPUs, one at a time.

In: handles of both, and which of them is about to work. Out: the GPUs' memory handed from one to the other when that
changes. Must not know: steps, batches, Ray.

Who waits for whom: a call here returns when the other side has left the GPUs. All GPUs are left before any is taken, so
that none ever holds both:

    sampling   learner offloaded             samplers awake
    pushing    optimizer offloaded           weights awake, no cache (what a push reads and writes)
    learning   learner on the GPUs           samplers asleep; their weights are kept on the host, or dropped when the
                                             learner is about to change its own

Sequences that are being sampled (batches requested ahead) stop in mid-answer when the samplers leave, and go on when
they are back. Dropped weights come back with the next push, and sampling before that is an error. A hand-over is
finished before an interruption is raised: a checkpoint needs the whole learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from orchestrator.base.errors import WaitedTooLong
from orchestrator.base.interrupt import defer_signals
from orchestrator.cluster.handles import wait_all
from rollout.base.gpu_sharing import GpuSharing
from rollout.base.handle import Handle, WaitAll


class Holder(Enum):
    sampling = "sampling"
    pushing = "pushing"
    learning = "learning"


class Colocation(GpuSharing):
    """Begins with samplers asleep, their weights kept, and the learner on the GPUs (see `begin`)."""

    def __init__(
        self, workers: Sequence[Handle], ranks: Sequence[Handle], timeout_s: float, wait_all: WaitAll = wait_all
    ):
        """timeout_s: for each side to leave or take the GPUs."""
        self.workers, self.ranks, self.timeout_s, self.wait_all = workers, ranks, timeout_s, wait_all
        self.holder = Holder.learning
        self.stale = False  # the samplers' weights are no longer the learner's, and may be gone

    def begin(self) -> None:
        """Between the samplers' start and the learner's: each starts on an empty GPU."""
        self._ask(self.workers, "sleep", True, why="before the learner can start")

    @defer_signals()
    def sampling(self) -> None:
        if self.holder is Holder.sampling:
            return
        if self.stale:
            raise RuntimeError("the learner's weights have changed since the last push: push them before sampling")
        kept = self.holder is Holder.learning
        self._ask(self.ranks, "offload", "all", why="before the samplers can sample")
        self._ask(self.workers, "wake", None if kept else ["kv_cache"], why="to sample")
        self.holder = Holder.sampling

    @defer_signals()
    def pushing(self) -> None:
        if self.holder is not Holder.pushing:
            if self.holder is Holder.sampling:
                self._ask(self.workers, "sleep", False, why="before weights can be pushed")
            self._ask(self.ranks, "offload", "optimizer", why="before weights can be pushed")
            self._ask(self.workers, "wake", ["weights"], why="to take weights")
            self.holder = Holder.pushing
        self.stale = False

    @defer_signals()
    def learning(self, changes: bool) -> None:
        if self.holder is not Holder.learning:
            self._ask(self.workers, "sleep", not changes, why="before the learner can work")
            self._ask(self.ranks, "reload", why="to learn")
            self.holder = Holder.learning
        self.stale = self.stale or changes

    def _ask(self, whom: Sequence[Handle], method: str, *args: Any, why: str) -> None:
        try:
            self.wait_all([one.call(method, *args, timeout_s=self.timeout_s) for one in whom])
        except WaitedTooLong as error:
            raise WaitedTooLong(
                f"{why}, {'samplers' if whom is self.workers else 'learner ranks'} had {self.timeout_s:g} s "
                f"(cluster.colocation_timeout_s) to {'leave' if method in ('sleep', 'offload') else 'take'} their "
                f"GPUs: {error}"
            ) from error
