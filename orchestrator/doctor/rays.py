"""Rays on this host: whether another can start, what runs, what dead ones left behind.

In: /proc, Ray's temporary folder, /dev/shm, RAY_ADDRESS. Out: findings. Must not know: what is inside a Ray
(`orchestrator.doctor.cluster`). Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from conf.shell import start_head
from orchestrator.cluster.local_rays import (
    NOT_PRIVATE,
    auto_address,
    local_rays,
    refuse_private,
    refuse_unusable_folder,
    temporary_folder,
)
from orchestrator.doctor.findings import GIB, Finding, note, problem
from rollout.base.errors import BadInput
from rollout.base.network import free_ports

HEAD_PORTS = {  # that `ray start --head` takes unless it is told another: option, default
    "--port": 6379, "--dashboard-port": 8265, "--ray-client-server-port": 10001,
    "--dashboard-agent-listen-port": 52365,
}  # fmt: skip
SHM = Path("/dev/shm")
YOUNG_S = 60.0  # a session's folder, or a segment, that is younger may belong to something that is starting
COUNTING_S = 3.0  # for the size of dead sessions
SMALL = 2**20  # bytes of segments not worth a line
NAMED = 3  # at most, in a line


def ray_folder() -> Iterator[Finding]:
    try:
        refuse_unusable_folder()
    except BadInput as error:
        yield problem(str(error))
    else:
        yield Finding("Ray's temporary folder can be used")


def other_rays() -> Iterator[Finding]:
    """Beside another Ray a run starts as ever; a head that is started needs ports of its own."""
    for ray in local_rays():
        whose = f"the private Ray of a run (process {ray.run})" if ray.run else "a Ray"
        jobs = f", takes jobs at port {ray.agent_port}" if ray.agent_port else ""
        where = f"{whose} of {ray.user} runs here: {ray.address}, process {ray.pid}{jobs}"
        if ray.run and not Path(f"/proc/{ray.run}").exists():
            yield note(f"{where}; its run has ended, so nothing needs it any more: kill {ray.pid}")
        else:
            yield note(where)
    taken = {option: port for option, port in HEAD_PORTS.items() if _in_use(port)}
    if taken:
        instead = [f"{option}={free}" for option, free in zip(taken, free_ports(len(taken)), strict=True)]
        ports = ", ".join(map(str, taken.values()))
        start = start_head(*instead)
        yield note(f"in use, of the ports that a Ray head takes: {ports}; to start one here: {start}")
    else:
        yield Finding("the ports of a Ray head are free")
    if (Path.home() / ".ray" / "auth_token").is_file() and "RAY_AUTH_MODE" not in os.environ:
        yield note(
            "~/.ray/auth_token exists, so a head that is started here asks for it: export RAY_AUTH_MODE=token before "
            "`ray job submit`, or remove that file before `ray start`",
        )


def leftovers() -> Iterator[Finding]:
    folders = dead_sessions(temporary_folder() / "ray")
    if folders:
        size, whole = _size(folders)
        more = f" and {len(folders) - NAMED} more" if len(folders) > NAMED else ""
        yield note(
            f"{len(folders)} session(s) of Rays that have ended take {'' if whole else 'more than '}{size / GIB:.2f} "
            f"GiB in {folders[0].parent}: rm -r {' '.join(str(folder) for folder in folders[:NAMED])}{more}"
        )
    else:
        yield Finding("no session of a Ray that has ended is left")
    segments = dead_segments(SHM)
    size = sum(found for _, found in segments)
    if size > SMALL:
        segments.sort(key=lambda one: -one[1])
        more = f" and {len(segments) - NAMED} more" if len(segments) > NAMED else ""
        yield note(
            f"{len(segments)} segment(s) of {size / GIB:.2f} GiB in {SHM} are held by no process: "
            f"rm {' '.join(str(path) for path, _ in segments[:NAMED])}{more}"
        )
    else:
        yield Finding(f"no shared memory of a process that has ended is left in {SHM}")


def dead_sessions(folder: Path) -> list[Path]:
    """Session folders that no living process names in its command line, oldest first."""
    named = "\n".join(_command_lines())
    found = []
    for path in sorted(folder.glob("session_2*")):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink() and path.name not in named and _old(path):
                found.append(path)
    return found


def dead_segments(folder: Path) -> list[tuple[Path, int]]:
    """(file, bytes) of this user's files that no process has mapped or opened. A process of another user cannot be
    read, so its files are left out."""
    mine, held = {}, set()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            facts = path.lstat()
            if path.is_file() and (facts.st_uid == os.getuid() or os.getuid() == 0) and _old(path):
                mine[facts.st_ino] = (path, facts.st_blocks * 512)
    for entry in Path("/proc").iterdir() if mine else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for line in (entry / "maps").read_text().splitlines():
                    if f"{folder}/" in line:
                        held.add(int(line.split()[4]))
            with contextlib.suppress(OSError):
                for file in (entry / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        held.add(file.stat().st_ino)
    return [one for inode, one in mine.items() if inode not in held]


def ray_address(given: str | None = None) -> Iterator[Finding]:
    """given: --address, in the place of RAY_ADDRESS."""
    address, name = given or os.environ.get("RAY_ADDRESS"), "--address" if given else "RAY_ADDRESS"
    if not address:
        yield Finding("RAY_ADDRESS is not set: a run starts a private Ray")
        return
    try:
        if address == "auto":
            address = auto_address()
        refuse_private(address)
    except BadInput as error:
        yield problem(str(error))
        return
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            yield problem(
                f"{name}={address}: nobody answers there ({error.strerror or error}); {NOT_PRIVATE}",
            )
            return
    yield Finding(f"{name}: runs join {address}")


def _command_lines() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / "cmdline").read_bytes().decode(errors="replace")


def _old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > YOUNG_S


def _size(folders: list[Path]) -> tuple[int, bool]:
    """Bytes, and whether everything was counted."""
    total, end = 0, time.monotonic() + COUNTING_S
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(where, name)).st_blocks * 512
            if time.monotonic() > end:
                return total, False
    return total, True


def _in_use(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return True
    return False
