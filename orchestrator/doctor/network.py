"""The network interface that traffic between hosts takes on this host, and why; how fast a connection is.

In: cluster.network_interface, environment variables, the kernel's routes. Out: findings, bytes/s. Must not know: Ray.
psutil is imported where it is used: the doctor also runs where no package is installed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from orchestrator.doctor.findings import Finding, note, problem

ANYWHERE = "8.8.8.8"  # an address beyond every local network: the default route leads there. Nothing is sent.
VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
CHUNK = 2**20


def interfaces(wanted: str | None) -> Iterator[Finding]:
    """wanted: cluster.network_interface."""
    try:
        there = addresses()
    except ImportError:
        return  # `packages` has said what is missing
    listed = ", ".join(f"{name} ({found})" for name, found in there.items())
    if wanted is not None:
        if wanted not in there:
            yield problem(
                f"cluster.network_interface={wanted}: this host has no such interface with an IPv4 address; it "
                f"has {listed}"
            )
            return
        yield Finding(f"traffic between hosts takes {wanted} ({there[wanted]}), as cluster.network_interface says")
    else:
        mine = default_address()
        name = next((name for name, found in there.items() if found == mine), None)
        if name is None or mine is None:
            yield note(f"no route leads to other hosts, so only this one can be used; interfaces: {listed}")
        else:
            others = [one for one in there if one not in (name, "lo")]
            choice = f"; others: {', '.join(others)} (cluster.network_interface=<name>)" if others else ""
            yield Finding(
                f"traffic between hosts takes {name} ({mine}): by it this host's default route leaves, and by that "
                f"address Ray knows the node unless it is started with --node-ip-address{choice}"
            )
    for variable in VARIABLES:
        given = os.environ.get(variable, "").lstrip("=^")
        if given and not any(one.startswith(given.split(",")[0]) for one in there):
            yield problem(f"{variable}={os.environ[variable]}: this host has no such interface; it has {listed}")
        elif given:
            yield note(f"{variable}={os.environ[variable]} decides for its library, not Ray's address")
    if (resolved := _resolved()) is not None and resolved.startswith("127.") and len(there) > 1:
        yield Finding(f"{socket.gethostname()} resolves to {resolved}: runs do not rely on it")


def addresses() -> dict[str, str]:
    """{interface: its first IPv4 address}."""
    import psutil

    found = {
        name: [one.address for one in given if one.family is socket.AF_INET]
        for name, given in psutil.net_if_addrs().items()
    }
    return {name: given[0] for name, given in found.items() if given}


def default_address() -> str | None:
    """This host's address on its default route; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ANYWHERE, 53))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def loopback(megabytes: int = 128) -> Iterator[Finding]:
    receiver = Receiver("127.0.0.1")
    rate = send("127.0.0.1", receiver.port, megabytes)
    yield Finding(f"a TCP connection within this host: {rate / 1e9:.1f} GB/s")


class Receiver:
    """Takes one connection and everything that is sent through it, then says how much that was."""

    def __init__(self, address: str, timeout_s: float = 20.0):
        self._server = socket.create_server((address, 0))
        self._server.settimeout(timeout_s)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._receive, args=(timeout_s,), daemon=True).start()

    def _receive(self, timeout_s: float) -> None:
        with contextlib.suppress(OSError), self._server:  # the sender reports what went wrong
            connection, _ = self._server.accept()
            with connection:
                connection.settimeout(timeout_s)
                buffer, total = bytearray(CHUNK), 0
                while count := connection.recv_into(buffer):
                    total += count
                connection.sendall(total.to_bytes(8, "big"))


def send(address: str, port: int, megabytes: int, timeout_s: float = 20.0) -> float:
    """Bytes/s of so many MB to a `Receiver`. Raises OSError."""
    data, total = bytes(CHUNK), megabytes * CHUNK
    with socket.create_connection((address, port), timeout=timeout_s) as connection:
        begin = time.perf_counter()
        for _ in range(megabytes):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        arrived = int.from_bytes(connection.recv(8), "big")
        seconds = time.perf_counter() - begin
    if arrived != total:
        raise OSError(f"{arrived} of {total} bytes arrived")
    return total / seconds


def _resolved() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
