"""Which network interface gloo takes. In: an address. Out: an environment variable. Must not know: who talks there."""

from __future__ import annotations

import os
import socket

import psutil

GLOO = "GLOO_SOCKET_IFNAME"


def gloo_towards(address: str) -> None:
    """Make gloo listen on the interface from which this host reaches `address`, unless GLOO_SOCKET_IFNAME names one.

    By itself gloo listens where the host's name resolves to: 127.0.1.1 on a stock Debian, out of other hosts' reach.
    """
    if GLOO in os.environ:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        mine = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == mine for one in addresses):
            os.environ[GLOO] = name
