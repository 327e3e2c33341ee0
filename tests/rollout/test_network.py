"""gloo uses the interface that routes to the other side, whatever the host's name resolves to."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from rollout.base.network import GLOO, gloo_towards


def test_gloo_takes_the_interface_of_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: pytest.fail("a host's name says nothing of its networks"))
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family is socket.AF_INET:
                monkeypatch.setenv(GLOO, "")  # put back at the end, whatever is set meanwhile
                monkeypatch.delenv(GLOO)
                gloo_towards(one.address)
                assert os.environ[GLOO] == name


def test_an_interface_chosen_by_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO, "eth7")
    gloo_towards("127.0.0.1")
    assert os.environ[GLOO] == "eth7"
