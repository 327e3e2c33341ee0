"""The handshake of ranks and workers: who is admitted, and that every wait has a limit and names both sides."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from conf.schema import Transport
from rollout.weight_sync.handshake import Listener, connect, decline
from rollout.weight_sync.weights import Endpoint, Offer, Route
from tests.helpers.handles import InThread

NAMES = ["rollout worker 0", "rollout worker 1"]


@pytest.fixture
def host() -> Iterator[Listener]:
    made = Listener("learner rank 0", "127.0.0.1", "cpu", 0)
    yield made
    made.close()


def test_both_sides_exchange_messages_in_order(host: Listener, in_thread: InThread) -> None:
    coming = in_thread(host.receive, NAMES, 3, 5.0)
    second = connect(host.endpoint, NAMES[1], 3, 5.0, group="a")  # in any order
    first = connect(host.endpoint, NAMES[0], 3, 5.0, group=None)
    connections = coming.result(5)
    assert [(connection.peer, connection.hello["group"]) for connection in connections] == [
        (NAMES[0], None),
        (NAMES[1], "a"),
    ]
    payload = os.urandom(3_000_000)
    sent = in_thread(connections[0].send, "chunk", payload)
    assert first.receive("to send") == ("chunk", payload)
    sent.result(5)
    second.send("taken")
    assert connections[1].receive("to take it") == ("taken", None)


def test_workers_that_do_not_connect_are_named(host: Listener, in_thread: InThread) -> None:
    coming = in_thread(host.receive, [*NAMES, "rollout worker 2"], 3, 0.5)
    connection = connect(host.endpoint, NAMES[1], 3, 5.0)
    missing = "rollout worker 0, rollout worker 2"
    expected = f"learner rank 0 timed out after 0.5 s waiting for {missing} to fetch the weights of version 3"
    with pytest.raises(TimeoutError, match=expected):
        coming.result(5)
    with pytest.raises(ConnectionError, match="rollout worker 1 waited for learner rank 0 to send, but it hung up"):
        connection.receive("to send")


def test_a_silent_rank_is_named(host: Listener, in_thread: InThread) -> None:
    coming = in_thread(host.receive, NAMES[:1], 3, 5.0)
    connection = connect(host.endpoint, NAMES[0], 3, 0.3)
    coming.result(5)
    with pytest.raises(
        TimeoutError, match=r"rollout worker 0 timed out after 0.3 s waiting for learner rank 0 to begin"
    ):
        connection.receive("to begin")


def test_a_rank_that_does_not_accept_is_named(host: Listener) -> None:
    """Connected, but the rank does not accept."""
    with pytest.raises(
        TimeoutError, match=r"rollout worker 0 timed out after 0.3 s waiting for learner rank 0 to answer"
    ):
        connect(host.endpoint, NAMES[0], 3, 0.3)


def test_a_rank_that_closed_is_named(host: Listener) -> None:
    endpoint = host.endpoint
    host.close()
    with pytest.raises(ConnectionError, match="rollout worker 0 cannot reach learner rank 0 at"):
        connect(endpoint, NAMES[0], 3, 1.0)


def test_a_silent_worker_is_named(host: Listener, in_thread: InThread) -> None:
    coming = in_thread(host.receive, NAMES[:1], 3, 0.5)
    silent = connect(host.endpoint, NAMES[0], 3, 5.0)
    (connection,) = coming.result(5)
    with (
        silent.connection,
        pytest.raises(
            TimeoutError, match=r"learner rank 0 timed out after 0.5 s waiting for rollout worker 0 to take it"
        ),
    ):
        connection.receive("to take it")


def _stay(endpoint: Endpoint, ready: Any) -> None:
    connection = connect(endpoint, NAMES[0], 3, 60.0)
    ready.set()
    connection.receive("to end this")


def test_a_killed_worker_is_named_at_once(host: Listener) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_stay, args=(host.endpoint, ready))
    process.start()
    try:
        (connection,) = host.receive(NAMES[:1], 3, 30.0)
        assert ready.wait(10) and process.pid
        os.kill(process.pid, signal.SIGKILL)
        expected = "learner rank 0 waited for rollout worker 0 to take it, but it hung up or died"
        with pytest.raises(ConnectionError, match=expected):
            connection.receive("to take it")
    finally:
        process.kill()
        process.join(10)


def test_a_worker_that_reconnects_counts_with_its_last_connection(host: Listener, in_thread: InThread) -> None:
    """It started again meanwhile."""
    coming = in_thread(host.receive, NAMES, 3, 5.0)
    before = connect(host.endpoint, NAMES[0], 3, 5.0, group="old")
    again = connect(host.endpoint, NAMES[0], 3, 5.0, group=None)
    connect(host.endpoint, NAMES[1], 3, 5.0)
    connections = coming.result(5)
    assert connections[0].hello["group"] is None
    connections[0].send("go")
    assert again.receive("to begin") == ("go", None)
    with pytest.raises(ConnectionError, match="hung up"):
        before.receive("to begin")


def test_a_worker_that_declines_is_not_waited_for(host: Listener, in_thread: InThread) -> None:
    """It has no engine. The ranks that do not wait for it are not visited."""
    coming = in_thread(host.receive, NAMES, 3, 5.0)
    lost = connect(host.endpoint, NAMES[0], 3, 5.0)  # before it started again
    decline(Offer(3, Route(Transport.ipc, 2), (host.endpoint,), NAMES[0]))
    with pytest.raises(ConnectionError, match="hung up"):  # it has heard that
        lost.receive("to begin")
    connect(host.endpoint, NAMES[1], 3, 5.0)
    assert [connection.peer for connection in coming.result(5)] == [NAMES[1]]
    second = Listener("learner rank 1", "127.0.0.1", "GPU 1", 1)
    coming = in_thread(second.receive, NAMES[1:], 4, 5.0)
    beside = replace(host.endpoint, device="GPU 0", address=("127.0.0.1", 1))  # nobody listens there
    decline(Offer(4, Route(Transport.ipc, 2), (beside, second.endpoint), NAMES[1]))
    assert coming.result(5) == []
    second.close()
    decline(Offer(4, Route(Transport.ipc, 2), (second.endpoint,), NAMES[1]))  # the rank is lost: others say so


def test_connections_with_a_wrong_key_version_or_name_are_rejected(host: Listener, in_thread: InThread) -> None:
    """No key, nonsense, another version, another name: none of them counts, none gets the weights of others."""
    coming = in_thread(host.receive, NAMES[:1], 3, 10.0)
    forged = connect(replace(host.endpoint, key=bytes(32)), NAMES[0], 3, 5.0)
    with pytest.raises(ConnectionError, match="hung up"):
        forged.receive("to begin")
    with socket.create_connection(host.endpoint.address) as nonsense:
        nonsense.sendall(b"GET / HTTP/1.1\r\n\r\n" * 4)
    for name, version in [(NAMES[0], 2), (NAMES[1], 3)]:
        connection = connect(host.endpoint, name, version, 5.0)
        with pytest.raises(ConnectionError, match=f"{name} was turned away by learner rank 0: this is version 3 for"):
            connection.receive("to begin")
    assert not coming.done()
    connect(host.endpoint, NAMES[0], 3, 5.0)
    assert [connection.peer for connection in coming.result(5)] == NAMES[:1]


def _remember() -> dict[str, Any]:
    UNPICKLED.append(1)
    return {}


UNPICKLED: list[int] = []


class Bomb:
    def __reduce__(self) -> Any:
        return _remember, ()


def test_nothing_is_unpickled_without_the_key(host: Listener, in_thread: InThread) -> None:
    coming = in_thread(host.receive, NAMES[:1], 3, 1.0)
    forged = connect(replace(host.endpoint, key=bytes(32)), NAMES[0], 3, 5.0, more=Bomb())
    with pytest.raises(ConnectionError, match="hung up"):
        forged.receive("to begin")
    assert not UNPICKLED
    connect(host.endpoint, NAMES[0], 3, 5.0, more=Bomb())  # the key makes the difference
    coming.result(5)
    assert UNPICKLED
