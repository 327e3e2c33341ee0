"""Ray instances on this host: who runs them, and whether another can start beside them.

In: /proc, Ray's temporary folder, environment variables. Out: `LocalRay`s, the address that "auto" means, `BadInput`
where Ray cannot start. Must not know: actors. Standard library only: `thinkless doctor` reads it, too.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from conf.shell import start_head
from rollout.base.errors import BadInput

PRIVATE = "thinkless-run"  # label of the node of a run's private Ray; its value is that run's process id
LOCAL = ("localhost", "127.0.0.1")
SOCKET_PATH = 107  # bytes, the longest that Linux takes
NOT_PRIVATE = "leave RAY_ADDRESS and cluster.address out for a private Ray"


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A Ray cluster that this host is part of."""

    pid: int  # of its raylet
    user: str
    address: str  # of its head, host:port
    head: bool  # whether the head runs here
    run: str | None  # process id of the run whose private Ray it is
    agent_port: int | None  # where it accepts jobs: two Rays on a host cannot share it


def local_rays() -> list[LocalRay]:
    """All that are visible in this network namespace, by their raylets."""
    found, network = [], os.readlink("/proc/self/ns/net")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            owner = entry.stat().st_uid
        except OSError:  # it has ended, or is hidden
            continue
        if Path(words[0]).name != "raylet":
            continue
        with contextlib.suppress(OSError):  # another user's cannot be read
            if os.readlink(entry / "ns" / "net") != network:
                continue
        line = " ".join(words)
        address, agent = (re.search(rf"--{name}=(\S+)", line) for name in ("gcs-address", "listen-port"))
        run = re.search(rf'"{PRIVATE}": ?"(\d+)"', line)
        if address:
            found.append(
                LocalRay(
                    int(entry.name),
                    _name(owner),
                    address[1],
                    "--head" in words,
                    run[1] if run else None,
                    int(agent[1]) if agent and int(agent[1]) else None,
                )
            )
    return sorted(found, key=lambda one: one.pid)


def auto_address() -> str:
    """The head that "auto" means: one on this host that is no run's private Ray. Raises BadInput when there is none,
    or when it is open which."""
    seen = local_rays()
    heads = sorted({one.address for one in seen if one.run is None})
    started_last = temporary_folder() / "ray" / "ray_current_cluster"
    noted = started_last.read_text().strip() if started_last.is_file() else None
    if len(heads) == 1:
        return heads[0]
    if noted and (noted in heads or not seen):  # not seen: perhaps another container's
        return noted
    if heads:
        raise BadInput(
            f"RAY_ADDRESS=auto: several Rays run here ({', '.join(heads)}): name one of them instead of auto"
        )
    private = f", only private ones of other runs (process {', '.join(r.run for r in seen if r.run)})" if seen else ""
    raise BadInput(
        f"RAY_ADDRESS=auto: no Ray to join runs on this host{private}: {NOT_PRIVATE}, or start one: {start_head()}"
    )


def refuse_private(address: str) -> None:
    """BadInput when `address` is that of a run's private Ray on this host: Ray would try for half a minute."""
    host, _, port = address.rpartition(":")
    for one in local_rays():
        if one.run and (one.address == address or (host in LOCAL and one.address.rpartition(":")[2] == port)):
            raise BadInput(
                f"Ray at {address} is the private one of another run (process {one.run}), which takes nobody else: "
                + NOT_PRIVATE
            )


def temporary_folder() -> Path:
    """Where Ray creates its folder `ray`."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def refuse_unusable_folder() -> None:
    """BadInput when a private Ray cannot keep its files and sockets in its temporary folder."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    top = temporary_folder()
    remedy = "set RAY_TMPDIR to a short path of your own, such as /tmp/$USER"
    ours = f"{name}={top}" if name else str(top)
    sockets = top / "ray" / f"session_2000-01-01_00-00-00_000000_{os.getpid()}" / "sockets" / "plasma_store"
    if (length := len(os.fsencode(sockets))) > SOCKET_PATH:
        raise BadInput(
            f"{ours} is too long for Ray by {length - SOCKET_PATH} characters (a socket's path has at most "
            f"{SOCKET_PATH}): {remedy}"
        )
    folder = top / "ray"
    if folder.exists():
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise BadInput(f"Ray cannot write to {folder}, which belongs to {_name(folder.stat().st_uid)}: {remedy}")
    elif not top.is_dir() or not os.access(top, os.W_OK | os.X_OK):
        what = "cannot be written to" if top.is_dir() else "is not a folder"
        raise BadInput(f"Ray's temporary folder {ours} {what}: {remedy}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
