"""Actors in Ray's placement groups: started where a plan says, and ended again.

In: plans (`orchestrator.cluster.placement`), actors' classes and arguments. Out: `RayHandle`s. Must not know: what the
actors do, why they sit where they sit.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from orchestrator.base.errors import ActorDied, WaitedTooLong
from orchestrator.base.waiting import waiting
from orchestrator.cluster.handles import PULSE, RayFuture, RayHandle, wait_all
from orchestrator.cluster.placement import Plan, Role, Seat
from rollout.base.errors import BadInput
from rollout.base.handle import Handle

POLL_S = 1.0  # between two looks at whether nodes have joined
CLOSING_S = 5.0  # that actors have to close in order
CALLS_AT_ONCE = 64  # of `sample`, on one rollout worker
# Threaded actors: methods with threads of their own, and how many. Calls of them run in no order. `sample` of a rollout
# worker waits for its answers, and however many do, other methods are served; `grade_request` of a reward actor begins
# when what it grades is sampled, however early it was called; `pulse` (orchestrator.cluster.actor_watch) waits for no
# other call. Learner ranks have none: in a threaded actor no call would run in the process's main thread.
THREADS = {Role.rollout: {"sample": CALLS_AT_ONCE, PULSE: 1}, Role.reward: {"grade_request": 1, PULSE: 1}}


@dataclass(slots=True)
class _Group:
    """A placement group, and the actors that were started in it so far."""

    plan: Plan
    group: PlacementGroup
    actors: dict[Role, list[RayHandle]] = field(default_factory=dict)


class Actors:
    def __init__(self, timeout_s: float, environment: Mapping[str, str], nodes_timeout_s: float = 0.0):
        """timeout_s: for a busy cluster to have room; nodes_timeout_s: for one that is too small to grow. environment:
        of every actor."""
        self.timeout_s, self.nodes_timeout_s, self.environment = timeout_s, nodes_timeout_s, environment
        self._groups: list[_Group] = []

    def reserve(self, plan: Plan) -> _Group:
        """Hold the places of a plan, all or none, for `start`. BadInput when the cluster is too small for them,
        WaitedTooLong when it is busy."""
        self.refuse_too_large(plan)
        group = placement_group([dict(bundle) for bundle in plan.bundles], strategy=plan.strategy)
        if not group.wait(self.timeout_s):
            remove_placement_group(group)
            listed = ", ".join(
                f"{len(seats)} {role.value}s ({_readable(seats[0])} each)" for role, seats in plan.seats.items()
            )
            raise WaitedTooLong(
                f"the driver timed out after {self.timeout_s:g} s waiting for a place for {listed}: the cluster is "
                f"busy; free it, or lower {' or '.join(role.key for role in plan.seats)}"
            )
        self._groups.append(_Group(plan, group))
        return self._groups[-1]

    def start(
        self,
        role: Role,
        alone: Plan,
        body: type,
        arguments: list[list[Any]],
        timeout_s: float,
        threads: int | None = None,
        named: Mapping[str, Any] | None = None,
        check: Callable[[], None] | None = None,
        restarts: int = 0,
        **options: Any,
    ) -> list[RayHandle]:
        """An actor for each list of arguments, in places reserved for `role`, or else in those of `alone`.

        timeout_s: of calls to them, unless a call has its own; threads: of OpenMP; named: further arguments, the same
        for all; check: called first on each of their hosts but the driver's, which has made it before, and what it
        raises is raised; restarts: of an actor that dies, at most, which gets the calls again that it had not answered
        (one whose host is cut off as often as it takes: a minute passes before Ray calls a host dead); options: of
        Ray's actors.
        """
        free = (one for one in self._groups if role in one.plan.seats and role not in one.actors)
        group = next(free, None) or self.reserve(alone)
        if check is not None:
            self._check_elsewhere(group, role, check)
        threaded = THREADS.get(role, {})
        remote: Any = cast(Any, ray.remote)(concurrency_groups=threaded) if threaded else ray.remote
        actor_class = remote(body)
        handles = group.actors[role] = []
        for index, (seat, args) in enumerate(zip(group.plan.seats[role], arguments, strict=True)):
            environment = {**self.environment, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
            if seat.beside:
                environment |= self._gpus_of(group, seat)
            placed = actor_class.options(
                num_cpus=seat.cpus,
                num_gpus=seat.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group.group, placement_group_bundle_index=seat.bundle
                ),
                runtime_env={"env_vars": environment} if environment else None,
                max_restarts=restarts,
                max_task_retries=-1 if restarts else 0,
                **options,
            )
            make = functools.partial(placed.remote, *args, **(named or {}))
            handles.append(RayHandle(make(), f"{role.value} {index}", timeout_s, threaded))
            handles[-1].make = make
            handles[-1].restarts = f"{role.key.partition('.')[0]}.max_restarts={restarts}" if restarts else ""
        return handles

    def _check_elsewhere(self, group: _Group, role: Role, check: Callable[[], None]) -> None:
        homes = placement_group_table(group.group)["bundles_to_node_id"]
        nodes = {homes[seat.bundle] for seat in group.plan.seats[role]} - {ray.get_runtime_context().get_node_id()}
        calls = []
        for node in sorted(nodes):
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            call = ray.remote(_called).options(num_cpus=0, scheduling_strategy=there).remote(check)
            calls.append(RayFuture(call, f"node {node}", self.timeout_s))
        wait_all(calls)

    def release(self, handles: Sequence[Handle]) -> None:
        """End these actors (as `start` returned them); their resources are free once none of their group is left."""
        for group in list(self._groups):
            for role in [role for role, started in group.actors.items() if started is handles]:
                _end(group.actors.pop(role))
                if not group.actors:
                    self._groups.remove(group)
                    _free(group)

    def end_all(self) -> None:
        for group in reversed(self._groups):
            for handles in group.actors.values():
                _end(handles)
            _free(group)
        self._groups.clear()

    def started(self) -> list[RayHandle]:
        """All that were started and not ended. From any thread."""
        return [one for group in list(self._groups) for handles in list(group.actors.values()) for one in handles]

    def dead(self) -> list[ActorDied]:
        """Errors of the actors that do not live any more."""
        dead = []
        for handle in self.started():
            try:
                handle.call("ready", timeout_s=0.5).wait()
            except ActorDied as error:
                dead.append(error)
            except Exception:  # busy, or stuck for want of the dead one
                continue
        return dead

    def refuse_too_large(self, plan: Plan) -> None:
        """BadInput when the cluster, were it idle but for these actors, has no room for `plan`, and no node joins in
        time that makes some."""
        end = time.monotonic() + self.nodes_timeout_s
        while (missing := self._missing(plan)) and time.monotonic() < end:
            limit = f"at most {self.nodes_timeout_s:g} s, cluster.wait_for_resources_s"
            with waiting(f"waiting for nodes to join Ray ({limit}): {missing}"):
                while self._missing(plan) == missing and time.monotonic() < end:
                    time.sleep(POLL_S)
        self._refuse_too_large(plan)

    def _missing(self, plan: Plan) -> str:
        """What the cluster lacks for `plan`; empty when it has all. Example: "2 of 4 GPUs are missing"."""
        total, lacks = ray.cluster_resources(), []
        for resource in ("CPU", "GPU"):
            need, (largest, most) = plan.needs(resource), self._largest(plan, resource)
            short = need + sum(group.plan.needs(resource) for group in self._groups) - total.get(resource, 0)
            if short > 1e-6:
                lacks.append(f"{min(short, need):g} of {need:g} {resource}s are missing")
            elif most > largest + 1e-6:
                lacks.append(f"no host has the {most:g} {resource}s that are needed on one")
        return " and ".join(lacks)

    def _largest(self, plan: Plan, resource: str) -> tuple[float, float]:
        """(what the largest host has, what the largest bundle of `plan` takes)"""
        largest = max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0)
        return largest, max((bundle.get(resource, 0) for bundle in plan.bundles), default=0)

    def _refuse_too_large(self, plan: Plan) -> None:
        total = ray.cluster_resources()
        for resource in ("CPU", "GPU"):
            need, have, parts = plan.needs(resource), total.get(resource, 0), plan.parts(resource)
            taken = sum(group.plan.needs(resource) for group in self._groups)
            if need > have - taken + 1e-6:
                listed = " + ".join(f"{key}={count} of {each:g}" for key, (count, each) in parts.items())
                if not have:
                    device = " and ".join(f"{key.partition('.')[0]}.device=" for key in parts)
                    raise BadInput(
                        f"{device.replace('=', '=gpu')}: {listed} = {need:g} {resource}s are needed, and the cluster "
                        f"has none (see what `nvidia-smi` says on its hosts); set {device.replace('=', '=cpu')}, or "
                        "join a Ray that has some (cluster.address)"
                    )
                already = f", {taken:g} of them taken by this run's other actors" if taken else ""
                raise BadInput(
                    f"{listed} = {need:g} {resource}s do not fit, the cluster has {have:g}{already}; lower "
                    f"{'one of them' if len(parts) > 1 else next(iter(parts))}, or its num_{resource.lower()}s"
                )
            largest, most = self._largest(plan, resource)
            if most > largest + 1e-6:
                raise BadInput(
                    f"{' and '.join(parts)}: {most:g} {resource}s are required on one host, and the largest has "
                    f"{largest:g}; lower num_{resource.lower()}s or rollout.tensor_parallel"
                )

    def _gpus_of(self, group: _Group, seat: Seat) -> dict[str, str]:
        """The environment in which a sampler sees the GPUs of the ranks beside it, which Ray counts as theirs."""
        ranks = group.actors[Role.learner]
        found = wait_all([ranks[r].call("__ray_call__", _own_gpus, timeout_s=self.timeout_s) for r in seat.beside])
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu for gpus in found for gpu in gpus),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }


def _called(check: Callable[[], None]) -> None:
    """Run on a node: Ray runs functions alone, not whatever can be called."""
    check()


def _own_gpus(_: Any) -> list[str]:
    """Run in an actor: the ids of the GPUs that Ray gave it."""
    return list(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _end(handles: list[RayHandle]) -> None:
    closing = [handle.call("close").ref for handle in handles]
    ray.wait(closing, num_returns=len(closing), timeout=CLOSING_S)  # ended either way; the work is done or lost
    for handle in handles:
        with contextlib.suppress(Exception):
            ray.kill(handle.actor)


def _free(group: _Group) -> None:
    with contextlib.suppress(Exception):
        remove_placement_group(group.group)


def _readable(seat: Seat) -> str:
    return f"{seat.cpus:g} CPU" + (f", {seat.gpus:g} GPU" if seat.gpus else "")
