"""Which network interface gloo takes, and which ports are free.

In: an address. Out: an environment variable; numbers of ports. Must not know: who talks there.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

GLOO = "GLOO_SOCKET_IFNAME"


def free_ports(count: int, host: str = "") -> list[int]:
    """Different ports that nobody listens at now. host: the address that they are free at; "": at every one."""
    with ExitStack() as probes:
        return [probes.enter_context(socket.create_server((host, 0))).getsockname()[1] for _ in range(count)]


def gloo_towards(address: str) -> None:
    """Make gloo listen on the interface from which this host reaches `address`, unless GLOO_SOCKET_IFNAME names one.

    By itself gloo listens where the host's name resolves to: 127.0.1.1 on a stock Debian, out of other hosts' reach.
    """
    import psutil  # the doctor, which looks for free ports, also runs where packages are missing

    if GLOO in os.environ:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        mine = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == mine for one in addresses):
            os.environ[GLOO] = name
