"""Starts or joins Ray for this process.

In: configuration, RAY_ADDRESS. Out: a connection, or an error of one line. Must not know: actors, placement.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray._private.authentication.authentication_token_setup
import ray._private.parameter
import ray._private.services
import ray._private.worker
from ray.job_config import JobConfig

from conf.schema import ClusterConf
from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.search_path import SOURCE, source_comes_first
from orchestrator.base.waiting import waiting
from orchestrator.cluster.local_rays import PRIVATE, auto_address, refuse_private, refuse_unusable_folder
from orchestrator.cluster.network import LOOPBACK
from orchestrator.cluster.object_store import LEAST_GIB, note_smaller
from rollout.base.errors import BadInput


class _Job(JobConfig):
    """Ray would put this process's working directory first on the path of every worker (and would not, if it were told
    to bring another one there)."""

    def __init__(self) -> None:
        super().__init__(_py_driver_sys_path=[SOURCE] if source_comes_first() else [])

    def _runtime_env_has_working_dir(self) -> bool:
        return True


_print_all = ray._private.worker.print_to_stdstream
COMMON: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


def connect(conf: ClusterConf) -> bool:
    """Join the Ray at cluster.address or RAY_ADDRESS, else start a private one. Returns whether that one has its own
    token. Raises BadInput when it is not possible, RunError when Ray did not start."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    ray._private.worker.print_to_stdstream = _print_first_line
    address = conf.address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own_token = not address and "RAY_AUTH_MODE" not in os.environ
    try:
        if address:
            _join(address, conf)
        else:
            refuse_unusable_folder()
            if own_token:
                _authenticate(secrets.token_hex(16))
            _start(conf)
    except BadInput:
        raise
    except Exception as error:  # of a dozen types, plain Exception among them
        disconnect(own_token)
        raise cannot_start(address, error) from error
    finally:
        _install(handlers)
    return own_token


def _print_first_line(data: dict[str, Any], ignore_prefix: bool) -> None:
    """What Ray says of processes that died, without the last twenty lines of their logs."""
    _print_all({**data, "lines": [line.partition("\n")[0] for line in data["lines"]]}, ignore_prefix)


def connected() -> Any:
    """What Ray knows of this host: session, addresses, the node's id."""
    return ray._private.worker._global_node


def asks_gcs(address: str) -> Callable[[], None]:
    """A call to the GCS at `address` over a connection of its own, which raises if it takes more than two seconds."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled

    client = GcsClient(address=address)
    return lambda: client.internal_kv_get(b"thinkless", None, timeout=2)


def disconnect(own_token: bool) -> None:
    """End the connection, and the private Ray with it. own_token: as `connect` returned it."""
    ray.shutdown()
    if own_token:
        _authenticate(None)


def _join(address: str, conf: ClusterConf) -> None:
    if address == "auto":  # which Ray takes for any that it finds, another run's private one as well
        address = auto_address()
        ray._private.authentication.authentication_token_setup.maybe_enable_token_auth_if_token_available(False)
    if address.startswith(("http://", "https://")):
        raise BadInput(
            f"{address} is the address of a Ray dashboard, to which jobs are submitted; to join that Ray, RAY_ADDRESS "
            "and cluster.address name its head: host:port, as `ray start --head` printed it (port 6379 by default)"
        )
    refuse_private(address)
    with waiting(f"joining Ray at {address}"):
        _refuse_silence(address)
        # the head may have been started by another interpreter: actors run this one
        ray.init(
            address=address, job_config=_Job(), runtime_env={"py_executable": shlex.quote(sys.executable)}, **COMMON
        )
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here:
            note_smaller(node["Resources"].get("object_store_memory", 0) / 2**30, conf, node["NodeManagerHostname"])


def _start(conf: ClusterConf) -> None:
    # Its processes listen at their node's address; given a loopback address, ray.init would take an interface's for it.
    # Free ports: left alone, Ray takes the one where a head that is started later would take its jobs (52365).
    # Nobody needs its autoscaler, what sends logs to drivers, and the dashboard's server, which is there without a
    # dashboard too: 2.4 s of CPU time at each start, and ray.init waits for the last.
    own: dict[str, Any] = {"node_ip_address": LOOPBACK, "dashboard_agent_listen_port": 0}
    own |= {"no_monitor": True, "include_log_monitor": False}
    make = ray._private.parameter.RayParams
    # Ray writes the interpreter into a line for bash as it is, so that one with a space has to be quoted
    odd = shlex.quote(sys.executable) != sys.executable
    with (
        waiting("starting a private Ray"),
        _replaced(ray._private.parameter, "RayParams", lambda **given: make(**given | own)),
        _replaced(ray._private.services, "get_node", _patiently(conf.start_timeout_s)),
        _replaced(ray._private.services, "start_api_server", lambda *_, **__: (None, None)),
    ):
        ray.init(
            address="local",
            job_config=_Job(),
            include_dashboard=False,
            object_store_memory=int((conf.object_store_gib or LEAST_GIB) * 2**30),
            labels={PRIVATE: str(os.getpid())},
            _metrics_export_port=conf.metrics_port,
            runtime_env={"py_executable": shlex.quote(sys.executable)} if odd else None,
            **COMMON,
        )


def _patiently(limit_s: float) -> Callable[..., Any]:
    """Ray's look at whether its raylet has registered, which it takes 30 s for: too few on a busy machine."""
    look = ray._private.services.get_node

    def get_node(*arguments: Any) -> Any:
        end = time.monotonic() + limit_s
        while True:
            try:
                return look(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return get_node


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """For settings that `ray.init` has no argument for."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def cannot_start(address: str | None, error: Exception) -> RunError:
    """One line for whatever Ray reports when it does not start."""
    reason, doctor = " ".join(str(error).split())[:300] or type(error).__name__, command_line("doctor")
    if address:
        sent = os.environ.get("RAY_AUTH_MODE") == "token"
        asks = "" if sent else "; if that head asks for a token: export RAY_AUTH_MODE=token"
        return RunError(
            f"cannot join Ray at {address} ({reason}): see RAY_ADDRESS, cluster.address{asks}; and {doctor}"
        )
    if re.search(r"timed? ?out|within", reason):
        return RunError(f"a private Ray did not start in time ({reason}): the machine may be busy, so try again")
    return RunError(f"cannot start a private Ray ({reason}); for possible causes: {doctor}")


def _refuse_silence(address: str) -> None:
    """ConnectionError when nothing listens at host:port: Ray would retry for many minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in address and port.isdigit():
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=20.0)):
            pass


def _install(handlers: dict[signal.Signals, Any]) -> None:
    """Restore our handlers: Ray replaces SIGTERM's by one that prints a stack trace before it calls ours."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def _authenticate(token: str | None) -> None:
    """Give a private Ray its own token. By default Ray (2.60) writes one to ~/.ray, and a head that is started later
    then rejects every `ray job submit` that does not have it."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

    if token is None:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
    else:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    Config.initialize("")  # Ray read its settings when it was imported,
    AuthenticationTokenLoader.instance().reset_cache()  # and its token when it was first used
