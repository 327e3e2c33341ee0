"""A run's Ray session and its actors.

In: configuration. Out: `RayHandle`s of rollout workers, reward actors and learner ranks, all ended with the session.
Must not know: what the actors do, how they are placed (`placement`) and started (`actors`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from conf.schema import ClusterConf, Device, LearnerConf, RewardConf, RolloutConf
from orchestrator.base.errors import ActorDied, RunError
from orchestrator.base.interrupt import EndedAtOnce
from orchestrator.base.leaving import ended_in_order, kill_at_the_end
from orchestrator.base.processes import Family
from orchestrator.cluster.actor_watch import ActorWatch
from orchestrator.cluster.actors import Actors
from orchestrator.cluster.handles import RayHandle, wait_all
from orchestrator.cluster.lost_ranks import LostRanks
from orchestrator.cluster.network import environment, host_address
from orchestrator.cluster.placement import Role, plan
from orchestrator.cluster.ray_connection import asks_gcs, connect, connected, disconnect
from orchestrator.cluster.ray_watch import watch_of
from rollout.base.errors import BadInput
from rollout.base.handle import Handle

GRACE_S = 60.0  # see `learner_limits`
OTHER_CALLS = 16  # that a rollout worker serves at a time besides `sample`


class Cluster:
    """A Ray connection and the actors placed through it; leaving the `with` block ends every one of them.

    When Ray itself dies or does not answer, and after a second signal to a run with a private Ray, nothing is waited
    for: this process's descendants are killed when it is left (`orchestrator.base.leaving`).
    """

    def __init__(self, conf: ClusterConf):
        self.conf = conf
        joined = conf.address or os.environ.get("RAY_ADDRESS")  # a private Ray never grows
        nodes_s = conf.wait_for_resources_s if joined else 0.0
        self._actors = Actors(conf.start_timeout_s, environment(conf.network_interface, not joined), nodes_s)
        self._private, self._own_token, self._family = not joined, False, Family()
        self._hangs = ActorWatch(self._actors.started, conf.hang_s) if conf.hang_s else None

    def __enter__(self) -> Cluster:
        kill_at_the_end(self._family.kill)
        try:
            self._own_token = connect(self.conf)
            self._watch = watch_of(connected(), asks_gcs, self._family)
        except Exception as error:
            if not self._private or isinstance(error, BadInput):  # else something of it may have started, and be stuck
                ended_in_order(self._family.kill)
            raise
        self._watch.start()
        if self._hangs is not None:
            self._hangs.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._hangs is not None:
            self._hangs.stop()
        try:
            if isinstance(error, Exception) and self._watch.look():  # it was heard of by its consequence first
                raise RunError(self._watch.lost) from error
            if self._watch.lost or (self._private and isinstance(error, EndedAtOnce)):
                return
            unexplained = isinstance(error, Exception) and not isinstance(error, (BadInput, ActorDied))
            dead = self._actors.dead() if unexplained else []
            if self._watch.ended(self._leave, self._private):
                ended_in_order(self._family.kill)
        finally:
            self._watch.stop()
        if dead:  # the first error is often another actor's, of a lost connection
            raise dead[0] from error

    def _leave(self) -> None:
        self._actors.end_all()
        disconnect(self._own_token)

    def reserve(self, rollout: RolloutConf, learner: LearnerConf, reward: RewardConf) -> None:
        """Hold the places of a whole run, so that all of it is placed or nothing is; the calls below fill them.

        Actors that nothing was reserved for get a placement group of their own. Raises BadInput when the cluster is too
        small (and stays so for cluster.wait_for_resources_s), WaitedTooLong when it is busy.
        """
        self._actors.reserve(plan(self.conf.placement, rollout, learner, reward))

    def refuse_too_small(self, rollout: RolloutConf, learner: LearnerConf, reward: RewardConf) -> None:
        """BadInput, before a long warm-up, when the whole run will not fit, and no node joins in time that makes it."""
        self._actors.refuse_too_large(plan(self.conf.placement, rollout, learner, reward))

    def rollout_workers(
        self, conf: RolloutConf, body: type, arguments: list[Any], check: Callable[[], None] | None = None
    ) -> list[RayHandle]:
        """Threaded actors: many calls of `sample`, and others, run side by side, in no order. With
        cluster.placement=colocated the learner ranks are placed before them. check: see `Actors.start`."""
        return self._actors.start(
            Role.rollout,
            plan(self.conf.placement, rollout=conf),
            body,
            [arguments] * conf.workers,
            conf.timeout_s,
            conf.threads,
            check=check,
            restarts=conf.max_restarts,
            max_concurrency=OTHER_CALLS,
        )

    def learner_ranks(
        self, conf: LearnerConf, body: type, arguments: list[list[Any]], check: Callable[[], None] | None = None
    ) -> list[RayHandle]:
        """Each is also given `host`, by which it learns its host's address. check: see `Actors.start`."""
        alone, host = plan(self.conf.placement, learner=conf), partial(host_address, self.conf.network_interface)
        call_s, collective_s = learner_limits(conf, len(arguments))
        ranks = self._actors.start(
            Role.learner, alone, body, arguments, call_s, conf.threads, named={"host": host}, check=check
        )
        for rank in ranks:
            rank.collective_s = collective_s
        return ranks

    def reward_actors(self, conf: RewardConf, body: type, arguments: list[Any]) -> list[RayHandle]:
        alone, every = plan(self.conf.placement, reward=conf), [arguments] * conf.workers
        return self._actors.start(
            Role.reward,
            alone,
            body,
            every,
            conf.batch_timeout_s,
            restarts=conf.max_restarts,
            allow_out_of_order_execution=True,
        )

    def lost_ranks(self, conf: LearnerConf, ranks: Sequence[Handle], *state: str) -> LostRanks:
        """What replaces these learner ranks (as they were placed) when some are lost. state: see `LostRanks`."""
        return LostRanks(cast(Sequence[RayHandle], ranks), conf.max_restarts, self._watch.look, *state)

    def release(self, handles: Sequence[Handle]) -> None:
        """End these actors (as they were placed); their resources are free once none of their group is left."""
        self._actors.release(handles)


def learner_limits(conf: LearnerConf, ranks: int) -> tuple[float, float | None]:
    """Seconds: of the driver's calls to learner ranks; and of one collective call, where NCCL ends the process after it
    (None: gloo, or a single rank, which waits for no other).

    A collective call's time begins when it is enqueued, which may be late in the driver's: with twice as much, what the
    ranks report, or that one was ended, comes first unless a rank stops later than learner.timeout_s into the call.
    """
    collective_s = conf.timeout_s if conf.device is Device.gpu and ranks > 1 else None
    return 2 * conf.timeout_s + GRACE_S, collective_s


@contextlib.contextmanager
def listening_on(port: int | None) -> Iterator[None]:
    """Around the start of a learner: a port that is in use becomes BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise BadInput(
            f"cluster.port={port} is in use on the machine of learner rank 0: choose another, or leave it out "
            "for a free one"
        ) from error


def started(handles: Sequence[Handle], method: str, timeout_s: float, *args: Any) -> list[Any]:
    """Call `method` on all at once and wait: for actors that take long to start."""
    futures = [handle.call(method, *args, timeout_s=timeout_s) for handle in handles]
    return wait_all(futures)
