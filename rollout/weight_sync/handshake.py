"""A conversation between a learner rank and a rollout worker while weights go over: short messages, bounded waits.

In: who speaks to whom, and for how long one may wait. Out: messages; TimeoutError and ConnectionError that name both
sides. Weights themselves do not come through here. Must not know: torch, vLLM, Ray.

Who waits for whom: the rank waits for all its workers to come (each does so between two engine steps), then for each to
have taken what it was sent; a worker waits for the rank's next message. Any message wakes the other side, a closed
connection as well.
"""

from __future__ import annotations

import contextlib
import hmac
import pickle
import secrets
import socket
import struct
import threading
import time
from typing import Any

from rollout.weight_sync.weights import Endpoint, Offer

GREETING_S = 10.0  # for a connection to say who it is


class Connection:
    """One open conversation."""

    def __init__(self, connection: socket.socket, me: str, peer: str, timeout_s: float):
        self.connection, self.me, self.peer, self.timeout_s = connection, me, peer, timeout_s
        self.hello: dict[str, Any] = {}  # what the worker said of itself
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: str, content: Any = None) -> None:
        data = pickle.dumps((kind, content), protocol=5)
        with self._named(f"to take {kind!r}"):
            self.connection.settimeout(self.timeout_s)
            self.connection.sendall(struct.pack("!Q", len(data)) + data)

    def receive(self, what: str) -> tuple[str, Any]:
        """The next message. what: what is waited for, e.g. "to take the weights of version 3"."""
        deadline = time.monotonic() + self.timeout_s
        with self._named(what):
            (size,) = struct.unpack("!Q", self._exactly(8, deadline))
            kind, content = pickle.loads(self._exactly(size, deadline))
        if kind == "refused":
            raise ConnectionError(f"{self.me} was turned away by {self.peer}: {content}")
        return kind, content

    def refuse_closed(self, what: str) -> None:
        """ConnectionError if the other side has hung up or died; waits for nothing, and takes no message."""
        with self._named(what):
            self.connection.settimeout(0)
            with contextlib.suppress(BlockingIOError):  # nothing has come
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionResetError

    def close(self) -> None:
        self.connection.close()

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            part = self.connection.recv(min(size - len(data), 1 << 20))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)

    @contextlib.contextmanager
    def _named(self, what: str) -> Any:
        try:
            yield
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.me} timed out after {self.timeout_s:g} s waiting for {self.peer} {what}"
            ) from error
        except OSError as error:
            raise ConnectionError(f"{self.me} waited for {self.peer} {what}, but it hung up or died") from error


class Listener:
    """The learner rank's side: a socket that listens for the whole run, and the workers that connect."""

    def __init__(self, me: str, address: str, device: str, rank: int):
        self.me = me
        self._listener = socket.create_server((address, 0), backlog=128)
        self.endpoint = Endpoint(rank, (address, self._listener.getsockname()[1]), secrets.token_bytes(32), device)

    def receive(self, guests: list[str], version: int, timeout_s: float) -> list[Connection]:
        """Lines to all `guests`, in their order, once each has come for `version`, but to those that decline it.

        One that comes twice (it started again meanwhile) counts with its last line. Raises TimeoutError naming those
        who did not come.
        """
        lines: dict[str, Connection] = {}
        deadline = time.monotonic() + timeout_s
        try:
            while missing := [guest for guest in guests if guest not in lines]:
                self._listener.settimeout(max(deadline - time.monotonic(), 1e-3))
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError as error:
                    raise TimeoutError(
                        f"{self.me} timed out after {timeout_s:g} s waiting for {', '.join(missing)} to fetch the "
                        f"weights of version "
                        f"{version}; cluster.weight_sync_timeout_s is how long it waits"
                    ) from error
                line = self._greet(connection, guests, version, timeout_s)
                if line is not None:
                    if line.peer in lines:
                        lines[line.peer].close()
                    lines[line.peer] = line
        except BaseException:
            for line in lines.values():
                line.close()
            raise
        for name in [name for name, line in lines.items() if line.hello.get("declines")]:
            lines.pop(name).close()
        return [lines[guest] for guest in guests if guest in lines]

    def close(self) -> None:
        self._listener.close()

    def _greet(self, connection: socket.socket, guests: list[str], version: int, timeout_s: float) -> Connection | None:
        """None for one that has not the key, hangs up, or is not meant."""
        line = Connection(connection, self.me, "a caller", GREETING_S)
        try:
            challenge = secrets.token_bytes(32)
            connection.settimeout(GREETING_S)
            connection.sendall(challenge)
            answer = line._exactly(32, time.monotonic() + GREETING_S)
            if not hmac.compare_digest(answer, _answer(self.endpoint.key, challenge)):
                raise ConnectionError("a caller without the key")
            _, hello = line.receive("to say who it is")
            if hello["version"] != version or hello["name"] not in guests:
                line.send("refused", f"this is version {version} for {', '.join(guests)}, not {hello}")
                raise ConnectionError("a caller that was not meant")
        except OSError:  # it is not one of ours: those still missing are named when the time is up
            line.close()
            return None
        line.peer, line.timeout_s, line.hello = hello["name"], timeout_s, hello
        return line


def connect(endpoint: Endpoint, me: str, version: int, timeout_s: float, **more: Any) -> Connection:
    """The worker's side: connect to a rank for the weights of `version`. more: what else the rank must know."""
    peer = f"learner rank {endpoint.rank}"
    try:
        connection = socket.create_connection(endpoint.address, timeout=timeout_s)
    except OSError as error:
        raise ConnectionError(
            f"{me} cannot reach {peer} at {endpoint.address[0]}:{endpoint.address[1]} ({error})"
        ) from error
    line = Connection(connection, me, peer, timeout_s)
    with line._named("to answer"):
        challenge = line._exactly(32, time.monotonic() + timeout_s)
        connection.sendall(_answer(endpoint.key, challenge))
    line.send("hello", {"name": me, "version": version, **more})
    return line


def decline(offer: Offer) -> None:
    """The worker's side, instead of `connect`: every rank that waits for it goes on without. Returns at once. Whatever
    keeps a rank from hearing it is said there."""

    def tell(endpoint: Endpoint) -> None:
        with contextlib.suppress(OSError):
            connect(endpoint, offer.receiver, offer.version, offer.route.timeout_s, declines=True).close()

    for endpoint in offer.endpoints:
        if offer.receiver in offer.route.guests(endpoint.rank, endpoint.device != "cpu"):
            threading.Thread(target=tell, args=(endpoint,), name="declines weights", daemon=True).start()


def _answer(key: bytes, challenge: bytes) -> bytes:
    return hmac.digest(key, challenge, "sha256")
