"""Ray started or joined, actors placed, everything taken down again.

In: configuration. Out: `Handle`s of rollout workers, reward actors and learner ranks. Must not know: what the actors
do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from conf.schema import ClusterConf, Device, LearnerConf, RewardConf, RolloutConf
from orchestrator.errors import ActorDied, RunError, WaitedTooLong
from orchestrator.handles import Future, Handle
from rollout.errors import BadInput

Bundle = dict[str, float]


class Cluster:
    """A Ray connection and the actors placed through it; leaving the `with` block ends every one of them."""

    def __init__(self, conf: ClusterConf):
        self.conf = conf
        self._placed: list[tuple[PlacementGroup, list[Handle]]] = []
        self._own_token = False

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        address = self.conf.address or os.environ.get("RAY_ADDRESS")
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if address:
                _refuse_silence(address)
                # the head may have been started by another interpreter: actors run this one
                ray.init(address=address, runtime_env={"py_executable": sys.executable}, **common)
            else:
                self._own_token = "RAY_AUTH_MODE" not in os.environ
                if self._own_token:
                    _authenticate(secrets.token_hex(16))
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=int(self.conf.object_store_gib * 2**30),
                    _metrics_export_port=self.conf.metrics_port,
                    **common,
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            where = f"Ray at {address}" if address else "a private Ray"
            raise RunError(f"cannot start or join {where}: {reason}; see cluster.address") from error
        finally:
            _install(handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        dead = self._dead() if isinstance(error, Exception) and not isinstance(error, (BadInput, ActorDied)) else []
        for group, handles in reversed(self._placed):
            self._release(group, handles)
        self._placed.clear()
        ray.shutdown()
        if self._own_token:
            _authenticate(None)
        if dead:  # what was heard first is another actor's complaint of a lost connection
            raise dead[0] from error

    def _dead(self) -> list[ActorDied]:
        dead = []
        for handle in (handle for _, handles in self._placed for handle in handles):
            try:
                handle.call("ready", timeout_s=0.5).wait()
            except ActorDied as error:
                dead.append(error)
            except Exception:  # busy, or stuck for want of the dead one
                continue
        return dead

    def rollout_workers(self, conf: RolloutConf, body: type, arguments: list[Any]) -> list[Handle]:
        bundle = _bundle(conf.num_cpus, _gpus(conf))
        environment = {"OMP_NUM_THREADS": str(conf.threads)}
        return self._place(
            "rollout worker", "rollout.workers", body, [arguments] * conf.workers, bundle, conf.timeout_s, environment
        )

    def learner_ranks(self, conf: LearnerConf, body: type, arguments: list[list[Any]]) -> list[Handle]:
        bundle = _bundle(conf.num_cpus, _gpus(conf))
        environment = {"OMP_NUM_THREADS": str(conf.threads)}
        return self._place("learner rank", "learner.ranks", body, arguments, bundle, conf.timeout_s, environment)

    def reward_actors(self, conf: RewardConf, body: type, arguments: list[Any]) -> list[Handle]:
        return self._place(
            "reward actor", "reward.workers", body, [arguments] * conf.workers, _bundle(conf.num_cpus, 0), 3600.0, {}
        )

    def release(self, handles: list[Handle]) -> None:
        """End these actors (as they were placed) and free their resources."""
        for placed in list(self._placed):
            if placed[1] is handles:
                self._placed.remove(placed)
                self._release(*placed)

    def _place(
        self,
        name: str,
        key: str,
        body: type,
        arguments: list[list[Any]],
        bundle: Bundle,
        timeout_s: float,
        environment: dict[str, str],
    ) -> list[Handle]:
        self._refuse_impossible(name, key, bundle, len(arguments))
        group = placement_group([dict(bundle) for _ in arguments], strategy="PACK")
        if not group.wait(self.conf.start_timeout_s):
            remove_placement_group(group)
            raise WaitedTooLong(
                f"the driver waited {self.conf.start_timeout_s:g} s for a place for {len(arguments)} {name}s "
                f"({_readable(bundle)} each): the cluster is busy; free it, or lower {key}"
            )
        actor_class = ray.remote(body)
        handles = []
        for index, args in enumerate(arguments):
            actor = actor_class.options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
                runtime_env={"env_vars": environment} if environment else None,
            ).remote(*args)
            handles.append(Handle(actor, f"{name} {index}", timeout_s))
        self._placed.append((group, handles))
        return handles

    def refuse_too_small(self, rollout: RolloutConf, learner: LearnerConf, reward: RewardConf) -> None:
        """BadInput, before a long warm-up, when the whole run will not fit next to each other."""
        asked = {
            "rollout.workers": (rollout.workers, _bundle(rollout.num_cpus, _gpus(rollout))),
            "learner.ranks": (learner.ranks, _bundle(learner.num_cpus, _gpus(learner))),
            "reward.workers": (reward.workers, _bundle(reward.num_cpus, 0)),
        }
        total = ray.cluster_resources()
        for resource in ("CPU", "GPU"):
            parts = {key: (count, each.get(resource, 0)) for key, (count, each) in asked.items() if each.get(resource)}
            need, have = sum(count * each for count, each in parts.values()), total.get(resource, 0)
            if need > have + 1e-6:
                listed = " + ".join(f"{key}={count} of {each:g}" for key, (count, each) in parts.items())
                raise BadInput(
                    f"{listed} = {need:g} {resource}s do not fit, the cluster has {have:g}; lower one of them, "
                    f"or its num_{resource.lower()}s"
                )

    def _refuse_impossible(self, name: str, key: str, bundle: Bundle, count: int) -> None:
        total = ray.cluster_resources()
        taken = {
            resource: sum(b.get(resource, 0) for group, _ in self._placed for b in group.bundle_specs)
            for resource in bundle
        }
        for resource, each in bundle.items():
            have = total.get(resource, 0)
            if each * count > have - taken[resource] + 1e-6:
                already = f", {taken[resource]:g} of them taken by this run's other actors" if taken[resource] else ""
                raise BadInput(
                    f"{key}={count}: {count} {name}s of {each:g} {resource} each do not fit, the cluster has "
                    f"{have:g} {resource}s{already}; lower {key} or its num_{resource.lower()}s"
                )

    def _release(self, group: PlacementGroup, handles: list[Handle]) -> None:
        closing = [handle.call("close", timeout_s=5.0) for handle in handles]
        for future in closing:
            with contextlib.suppress(Exception):  # it is being ended either way; its work is done or lost already
                future.wait()
        for handle in handles:
            with contextlib.suppress(Exception):
                ray.kill(handle.actor)
        with contextlib.suppress(Exception):
            remove_placement_group(group)


def _install(handlers: dict[signal.Signals, Any]) -> None:
    """Ray puts a handler of its own over SIGTERM's, which prints the machine's stack before it calls ours."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def _refuse_silence(address: str) -> None:
    """ConnectionError when nobody listens at host:port: Ray would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in address and port.isdigit():
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=20.0)):
            pass


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


def started(handles: list[Handle], method: str, timeout_s: float, *args: Any) -> list[Any]:
    """Call `method` on all at once and wait: for actors that take long to come up."""
    from orchestrator.handles import wait_all

    futures: list[Future] = [handle.call(method, *args, timeout_s=timeout_s) for handle in handles]
    return wait_all(futures)


def _authenticate(token: str | None) -> None:
    """Give a private Ray a token of its own. Left alone, Ray (2.60) writes one to ~/.ray, and a head that is started
    later then refuses every `ray job submit` that does not know of it."""
    from ray._raylet import AuthenticationTokenLoader, Config

    if token is None:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
    else:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    Config.initialize("")  # Ray read its settings when it was imported,
    AuthenticationTokenLoader.instance().reset_cache()  # and its token when it was first used


def _gpus(conf: RolloutConf | LearnerConf) -> float:
    return conf.num_gpus if conf.device is Device.gpu else 0.0


def _bundle(num_cpus: float, num_gpus: float) -> Bundle:
    return {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}


def _readable(bundle: Bundle) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
