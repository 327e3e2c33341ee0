"""The store of a process group listens at its own address alone, and torch finds it by its URL."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psutil
import pytest
import torch

from rollout.base.key_store import key_store, store_url
from tests.helpers.handles import InThread

HOST = "127.0.0.9"  # of this machine's loopback, but not the usual one


def listening(port: int) -> list[str]:
    """The addresses at which this process accepts connections to that port."""
    return [one.laddr.ip for one in psutil.Process().net_connections("inet") if one.laddr and one.laddr.port == port]


@pytest.fixture
def group() -> Iterator[None]:
    if torch.distributed.is_initialized():  # by another test of this process
        torch.distributed.destroy_process_group()
    yield
    torch.distributed.destroy_process_group()


def test_the_store_listens_at_its_address_alone(in_thread: InThread) -> None:
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    other = in_thread(key_store, HOST, port, 1, 2, 60.0)
    first = key_store(HOST, port, 0, 2, 60.0, listener.detach())
    second = other.result(timeout=60)
    first.set("key", "value")
    assert second.get("key") == b"value"
    assert listening(port) and {*listening(port)} == {HOST}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_process_group_meets_at_it(group: None) -> None:
    """Once at a socket that is handed over, as a learner's rank 0 does."""
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    url = store_url(HOST, port, listener.detach())
    torch.distributed.init_process_group("gloo", init_method=url, rank=0, world_size=1)
    total = torch.tensor([2.0])
    torch.distributed.all_reduce(total)
    assert total.item() == 2.0 and {*listening(port)} == {HOST}
