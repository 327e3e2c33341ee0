"""Processes that leave at a chosen point of a weight sync, to be killed there: neither side says goodbye."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from typing import Any

from rollout.weight_sync.handshake import Listener, connect
from rollout.weight_sync.weights import Endpoint, worker_name

COMING_S = 60.0  # for a process to start and get there


@contextlib.contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[SpawnProcess, Any]]:
    """A process of `target(pipe, *args)`, and this side's pipe. It is killed at the end, if it still lives."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    made = context.Process(target=target, args=(there, *args), daemon=True)
    made.start()
    there.close()
    try:
        yield made, here
    finally:
        made.kill()
        made.join(COMING_S)


def worker_told_to_join(pipe: Any, endpoint: Endpoint, version: int) -> None:
    """A rollout worker that has learnt which group to join, and has not joined."""
    connection = connect(endpoint, worker_name(0), version, COMING_S, group=None, processes=1)
    kind, _ = connection.receive("to begin")
    pipe.send(kind)
    pipe.recv()


def rank_that_announced_a_group(pipe: Any, version: int) -> None:
    """A learner rank that has told its worker which group to join, and does not form it."""
    listener = Listener("learner rank 0", "127.0.0.1", "cpu", 0)
    pipe.send(listener.endpoint)
    (line,) = listener.receive([worker_name(0)], version, COMING_S)
    with contextlib.closing(listener._listener):
        joining = {"address": "127.0.0.1", "port": _unused_port(), "rank": 1, "world": 2, "timeout_s": 1.0}
        line.send("join", ("a group", joining))
        pipe.send("announced")
        pipe.recv()


def _unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
