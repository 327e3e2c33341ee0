"""Sampler and learner on the same GPUs, one at a time.

In: handles of both, which of them is about to work, and what replaces lost ranks. Out: the GPUs' memory handed from one
to the other when that changes. Must not know: steps, batches, Ray.

Who waits for whom: a call here returns when the other side has left the GPUs. All GPUs are left before any is taken, so
that none ever holds both:

    sampling   learner offloaded             samplers awake
    pushing    optimizer offloaded           weights awake, no cache (what a push reads and writes)
    learning   learner on the GPUs           samplers asleep; their weights are kept on the host, or dropped when the
                                             learner is about to change its own

Sequences that are being sampled (batches requested ahead) stop in mid-answer when the samplers leave, and go on when
they are back. Dropped weights come back with the next push, and sampling before that is an error. A hand-over is
finished before an interruption is raised: a checkpoint needs the whole learner.

Who dies starts again on GPUs that are free for it. Ranks: the samplers leave first. A sampler: at once while samplers
have the GPUs (`let_start`), and otherwise when they get them back; it is asleep until then, which is all that is asked
of it meanwhile (`rollout.deferred_engine`). Samplers lose the permission to start before they are asked to leave, so
that one which is starting then answers once it has started. A hand-over in which somebody starts again takes as long
as that, and an interruption waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    nobody = "nobody"  # within a hand-over: samplers asleep, the learner not back yet


class Colocation(GpuSharing):
    """Begins with samplers that have started on empty GPUs; `starting` comes next."""

    shared = True

    def __init__(
        self,
        workers: Sequence[Handle],
        ranks: Sequence[Handle],
        timeout_s: float,
        wait_all: WaitAll = wait_all,
        start_s: float = 0.0,
        let_start: Callable[[bool], None] = lambda free: None,
    ):
        """timeout_s: for each side to leave or take the GPUs. start_s: added to it for samplers, which may have to
        start again. let_start: told whether GPUs are free for samplers to start."""
        self.workers, self.ranks, self.timeout_s, self.wait_all = workers, ranks, timeout_s, wait_all
        self.start_s, self.let_start = start_s, let_start
        self.recovered: Callable[[Exception], bool] = lambda error: False  # see `Learner.recovered`
        self.holder = Holder.sampling
        self.stale = False  # the samplers' weights are no longer the learner's, and may be gone

    @defer_signals()
    def starting(self) -> None:
        if self.holder in (Holder.sampling, Holder.pushing):
            self._samplers_leave(True, why="before the learner can start")
        self.holder = Holder.learning

    @defer_signals()
    def sampling(self) -> None:
        if self.holder is Holder.sampling:
            return
        if self.stale:
            raise RuntimeError("the learner's weights have changed since the last push: push them before sampling")
        self._ask(self.ranks, "offload", "all", why="before the samplers can sample")
        self.let_start(True)
        self._ask(self.workers, "wake", ["kv_cache"] if self.holder is Holder.pushing else None, why="to sample")
        self.holder = Holder.sampling

    @defer_signals()
    def pushing(self) -> None:
        if self.holder is not Holder.pushing:
            if self.holder is Holder.sampling:
                self._samplers_leave(False, why="before weights can be pushed")
            self._ask(self.ranks, "offload", "optimizer", why="before weights can be pushed")
            self._ask(self.workers, "wake", ["weights"], why="to take weights")
            self.holder = Holder.pushing
        self.stale = False

    @defer_signals()
    def learning(self, changes: bool) -> None:
        if self.holder is not Holder.learning:
            if self.holder is not Holder.nobody:
                self._samplers_leave(not changes, why="before the learner can work")
            self._ask(self.ranks, "reload", why="to learn")
            self.holder = Holder.learning
        self.stale = self.stale or changes

    def _samplers_leave(self, keep: bool, why: str) -> None:
        self.let_start(False)
        self._ask(self.workers, "sleep", keep, why=why)
        self.holder = Holder.nobody

    def _ask(self, whom: Sequence[Handle], method: str, *args: Any, why: str) -> None:
        """Ranks that were lost stand again when this returns, and have done as they were asked."""
        seconds = self.timeout_s + (self.start_s if whom is self.workers else 0.0)
        while True:
            try:
                self.wait_all([one.call(method, *args, timeout_s=seconds) for one in whom])
                return
            except Exception as error:
                if whom is self.ranks and self.recovered(error):
                    continue
                if not isinstance(error, WaitedTooLong):
                    raise
                setting = "cluster.colocation_timeout_s"
                setting += " and rollout.start_timeout_s" if seconds > self.timeout_s else ""
                raise WaitedTooLong(
                    f"{why}, {'samplers' if whom is self.workers else 'learner ranks'} had {seconds:g} s ({setting}) "
                    f"to {'leave' if method in ('sleep', 'offload') else 'take'} their GPUs: {error}"
                ) from error
