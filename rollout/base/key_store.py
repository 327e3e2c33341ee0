"""The store by which the members of a torch process group find each other, served at one address alone.

In: where rank 0 listens. Out: a store, or a URL by which `torch.distributed` makes it. Must not know: who meets there.

torch's own listens on every interface of its host. Its protocol has no secret: whoever reaches the port can read and
set keys, so that where it listens is all that keeps others out.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import torch
from torch.distributed.rendezvous import register_rendezvous_handler

SCHEME = "thinkless"


def key_store(
    address: str, port: int, rank: int, members: int, timeout_s: float, listener: int | None = None
) -> torch.distributed.TCPStore:
    """Waits until all members are there. listener: rank 0's socket, a file descriptor that the store takes over; None:
    it makes one."""
    limit = timedelta(seconds=timeout_s)
    if rank:
        return torch.distributed.TCPStore(address, port, members, False, timeout=limit)
    if listener is None:
        listener = socket.create_server((address, port)).detach()
    return torch.distributed.TCPStore(address, port, members, True, timeout=limit, master_listen_fd=listener)


def store_url(address: str, port: int, listener: int | None = None) -> str:
    """For `init_process_group(init_method=...)`."""
    return f"{SCHEME}://{address}:{port}" + ("" if listener is None else f"?listener={listener}")


def _meet(url: str, timeout: timedelta, **_: object) -> Iterator[tuple[torch.distributed.Store, int, int]]:
    """torch adds rank and world_size to the URL."""
    where = urlsplit(url)
    asked = {key: int(values[0]) for key, values in parse_qs(where.query).items()}
    rank, members = asked["rank"], asked["world_size"]
    assert where.hostname and where.port, url
    seconds = timeout.total_seconds()
    yield key_store(where.hostname, where.port, rank, members, seconds, asked.get("listener")), rank, members


register_rendezvous_handler(SCHEME, _meet)
