"""Plans of placement carried out on Ray, and everything taken down again.

In: configuration. Out: `RayHandle`s of rollout workers, reward actors and learner ranks. Must not know: what the actors
do, why they sit where they sit (`orchestrator.cluster.placement`).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from conf.schema import ClusterConf, LearnerConf, RewardConf, RolloutConf
from orchestrator.base.errors import ActorDied, WaitedTooLong
from orchestrator.cluster.handles import RayHandle, wait_all
from orchestrator.cluster.placement import Plan, Role, Seat, plan
from orchestrator.cluster.ray_connection import connect, disconnect
from rollout.base.errors import BadInput
from rollout.base.handle import Handle

CLOSING_S = 5.0  # that actors have to close in order
CALLS_AT_ONCE, OTHER_CALLS = 64, 16
# Threaded actors: a method with threads of its own, and how many. Calls of it run in no order. Those of a rollout
# worker wait for its answers, and however many do, other methods are served; those of a reward actor begin when what
# they grade is sampled, however early they were asked for.
THREADS = {Role.rollout: ("sample", CALLS_AT_ONCE), Role.reward: ("judge_request", 1)}


@dataclass(slots=True)
class _Site:
    """A placement group that is held, and the actors that sit in it so far."""

    plan: Plan
    group: PlacementGroup
    seated: dict[Role, list[RayHandle]] = field(default_factory=dict)


class Cluster:
    """A Ray connection and the actors placed through it; leaving the `with` block ends every one of them."""

    def __init__(self, conf: ClusterConf):
        self.conf = conf
        self._sites: list[_Site] = []
        self._private = False

    def __enter__(self) -> Cluster:
        self._private = connect(self.conf)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        dead = self._dead() if isinstance(error, Exception) and not isinstance(error, (BadInput, ActorDied)) else []
        for site in reversed(self._sites):
            for handles in list(site.seated.values()):
                _end(handles)
            _free(site)
        self._sites.clear()
        disconnect(self._private)
        if dead:  # what was heard first is another actor's complaint of a lost connection
            raise dead[0] from error

    def _dead(self) -> list[ActorDied]:
        dead = []
        for handle in (handle for site in self._sites for handles in site.seated.values() for handle in handles):
            try:
                handle.call("ready", timeout_s=0.5).wait()
            except ActorDied as error:
                dead.append(error)
            except Exception:  # busy, or stuck for want of the dead one
                continue
        return dead

    def reserve(self, rollout: RolloutConf, learner: LearnerConf, reward: RewardConf) -> None:
        """Hold the places of a whole run, so that all of it is placed or nothing is; the calls below fill them.

        Actors that nothing was reserved for get a placement group of their own. Raises BadInput when the cluster is too
        small, WaitedTooLong when it is busy.
        """
        self._hold(plan(self.conf.placement, rollout, learner, reward))

    def refuse_too_small(self, rollout: RolloutConf, learner: LearnerConf, reward: RewardConf) -> None:
        """BadInput, before a long warm-up, when the whole run will not fit next to each other."""
        self._refuse_impossible(plan(self.conf.placement, rollout, learner, reward))

    def rollout_workers(self, conf: RolloutConf, body: type, arguments: list[Any]) -> list[RayHandle]:
        """Threaded actors: up to CALLS_AT_ONCE calls of `sample`, and others, run side by side, in no order. With
        cluster.placement=colocated the learner ranks are placed before them."""
        site = self._site(Role.rollout, plan(self.conf.placement, rollout=conf))
        every = {
            "max_concurrency": OTHER_CALLS,
            "max_restarts": conf.max_restarts,
            "max_task_retries": conf.max_restarts,  # what a lost worker was asked for, it is asked for again
        }
        return self._seat(site, Role.rollout, body, [arguments] * conf.workers, conf.timeout_s, conf.threads, every)

    def learner_ranks(self, conf: LearnerConf, body: type, arguments: list[list[Any]]) -> list[RayHandle]:
        site = self._site(Role.learner, plan(self.conf.placement, learner=conf))
        return self._seat(site, Role.learner, body, arguments, conf.timeout_s, conf.threads)

    def reward_actors(self, conf: RewardConf, body: type, arguments: list[Any]) -> list[RayHandle]:
        site = self._site(Role.reward, plan(self.conf.placement, reward=conf))
        return self._seat(
            site, Role.reward, body, [arguments] * conf.workers, 3600.0, options={"allow_out_of_order_execution": True}
        )

    def release(self, handles: Sequence[Handle]) -> None:
        """End these actors (as they were placed); their resources are free once none of their group is left."""
        for site in list(self._sites):
            for role in [role for role, seated in site.seated.items() if seated is handles]:
                _end(site.seated.pop(role))
                if not site.seated:
                    self._sites.remove(site)
                    _free(site)

    def _site(self, role: Role, alone: Plan) -> _Site:
        """Where seats for `role` were reserved and are free, or a new group for this role alone."""
        for site in self._sites:
            if role in site.plan.seats and role not in site.seated:
                return site
        return self._hold(alone)

    def _hold(self, wanted: Plan) -> _Site:
        self._refuse_impossible(wanted)
        group = placement_group([dict(bundle) for bundle in wanted.bundles], strategy=wanted.strategy)
        if not group.wait(self.conf.start_timeout_s):
            remove_placement_group(group)
            listed = ", ".join(
                f"{len(seats)} {role.value}s ({_readable(seats[0])} each)" for role, seats in wanted.seats.items()
            )
            raise WaitedTooLong(
                f"the driver timed out after {self.conf.start_timeout_s:g} s waiting for a place for {listed}: the "
                f"cluster is busy; "
                f"free it, or lower {' or '.join(role.key for role in wanted.seats)}"
            )
        self._sites.append(_Site(wanted, group))
        return self._sites[-1]

    def _seat(
        self,
        site: _Site,
        role: Role,
        body: type,
        arguments: list[list[Any]],
        timeout_s: float,
        threads: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> list[RayHandle]:
        method, threads_of_it = THREADS.get(role, ("", 0))
        remote: Any = ray.remote(concurrency_groups={method: threads_of_it}) if method else ray.remote
        actor_class = remote(body)
        handles = site.seated[role] = []
        for index, (seat, args) in enumerate(zip(site.plan.seats[role], arguments, strict=True)):
            environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
            if seat.beside:
                environment |= self._gpus_of(site, seat)
            actor = actor_class.options(
                num_cpus=seat.cpus,
                num_gpus=seat.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    site.group, placement_group_bundle_index=seat.bundle
                ),
                runtime_env={"env_vars": environment} if environment else None,
                **(options or {}),
            ).remote(*args)
            handles.append(RayHandle(actor, f"{role.value} {index}", timeout_s, {method} if method else ()))
        return handles

    def _gpus_of(self, site: _Site, seat: Seat) -> dict[str, str]:
        """The environment in which a sampler sees the GPUs of the ranks beside it, which Ray counts as theirs."""
        ranks = site.seated[Role.learner]
        found = wait_all(
            [ranks[r].call("__ray_call__", _own_gpus, timeout_s=self.conf.start_timeout_s) for r in seat.beside]
        )
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu for gpus in found for gpu in gpus),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }

    def _refuse_impossible(self, wanted: Plan) -> None:
        total = ray.cluster_resources()
        for resource in ("CPU", "GPU"):
            need, have, parts = wanted.needs(resource), total.get(resource, 0), wanted.parts(resource)
            taken = sum(site.plan.needs(resource) for site in self._sites)
            if need > have - taken + 1e-6:
                listed = " + ".join(f"{key}={count} of {each:g}" for key, (count, each) in parts.items())
                already = f", {taken:g} of them taken by this run's other actors" if taken else ""
                raise BadInput(
                    f"{listed} = {need:g} {resource}s do not fit, the cluster has {have:g}{already}; lower "
                    f"{'one of them' if len(parts) > 1 else next(iter(parts))}, or its num_{resource.lower()}s"
                )
            largest = max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0)
            most = max((bundle.get(resource, 0) for bundle in wanted.bundles), default=0)
            if most > largest + 1e-6:
                raise BadInput(
                    f"{' and '.join(parts)}: {most:g} {resource}s are wanted on one host, and the largest has "
                    f"{largest:g}; lower num_{resource.lower()}s or rollout.tensor_parallel"
                )


def _own_gpus(_: Any) -> list[str]:
    """Run in an actor: the ids of the GPUs that Ray gave it."""
    return list(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _end(handles: list[RayHandle]) -> None:
    closing = [handle.call("close").ref for handle in handles]
    ray.wait(closing, num_returns=len(closing), timeout=CLOSING_S)  # ended either way; the work is done or lost
    for handle in handles:
        with contextlib.suppress(Exception):
            ray.kill(handle.actor)


def _free(site: _Site) -> None:
    with contextlib.suppress(Exception):
        remove_placement_group(site.group)


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
    """Call `method` on all at once and wait: for actors that take long to come up."""
    futures = [handle.call(method, *args, timeout_s=timeout_s) for handle in handles]
    return wait_all(futures)


def _readable(seat: Seat) -> str:
    return f"{seat.cpus:g} CPU" + (f", {seat.gpus:g} GPU" if seat.gpus else "")
