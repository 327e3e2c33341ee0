"""Which interface an actor's collective calls take."""

from __future__ import annotations

import socket

import psutil
import pytest

from orchestrator.cluster.network import environment, host_address
from rollout.base.network import GLOO

NCCL = "NCCL_SOCKET_IFNAME"


def test_a_private_run_takes_loopback_unless_an_interface_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (GLOO, NCCL):
        monkeypatch.setenv(variable, "")  # put back at the end
        monkeypatch.delenv(variable)
    private = environment(None, private=True)
    name = private[GLOO]
    assert "127.0.0.1" in [one.address for one in psutil.net_if_addrs()[name] if one.family is socket.AF_INET]
    assert private == {GLOO: name, NCCL: f"={name}"}
    assert environment("eth7", private=True) == {GLOO: "eth7", NCCL: "=eth7"}
    assert environment(None) == {}  # of a cluster: each host's own, towards rank 0
    assert host_address(name) == "127.0.0.1"
    monkeypatch.setenv(NCCL, "eth0")
    assert environment(None, private=True) == {GLOO: name}
