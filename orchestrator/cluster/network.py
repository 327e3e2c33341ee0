"""The address by which other hosts reach this one, and the network interface that traffic between hosts takes.

In: cluster.network_interface. Out: an address (for the actor that asks), environment variables for an actor. Must not
know: what listens at the address.
"""

from __future__ import annotations

import os
import socket

import psutil
import ray

from rollout.base.errors import BadInput
from rollout.base.network import GLOO

LOOPBACK = "127.0.0.1"


def host_address(interface: str | None) -> str:
    """IPv4 address of `interface` on this host; None: the one by which Ray knows this node (not what the host's name
    resolves to: 127.0.1.1 on a stock Debian, and any of its networks where a host has several)."""
    if interface is None:
        return str(ray.util.get_node_ip_address())
    there = _interfaces()
    if not there.get(interface):
        named = ", ".join(f"{name} ({found[0]})" for name, found in there.items() if found)
        raise BadInput(
            f"cluster.network_interface={interface}: {socket.gethostname()} has no such interface with an IPv4 "
            f"address; it has {named}"
        )
    return there[interface][0]


def environment(interface: str | None, private: bool = False) -> dict[str, str]:
    """For an actor whose collective calls are to take `interface` alone; private: loopback, unless one is named here or
    in this process's own environment."""
    if interface is None:
        alone = environment(_loopback()) if private else {}
        return {name: value for name, value in alone.items() if name not in os.environ}
    whole_name = f"={interface}"  # NCCL would take it for a prefix
    return {"NCCL_SOCKET_IFNAME": whole_name, GLOO: interface}


def _interfaces() -> dict[str, list[str]]:
    """IPv4 addresses by the interface's name."""
    return {
        name: [one.address for one in addresses if one.family is socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
    }


def _loopback() -> str | None:
    return next((name for name, there in _interfaces().items() if LOOPBACK in there), None)
