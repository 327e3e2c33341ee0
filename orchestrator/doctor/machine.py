"""Processors, memory, disks, limits of this host, and its clock.

In: the kernel, run.root. Out: findings. Must not know: Ray, packages. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.findings import GIB, Finding, note, problem

MEMORY_GIB, SHM_GIB, DISK_GIB = 6.0, 1.0, 2.0  # what the quickstart takes, rounded up
FILES, MANY_FILES = 4096, 65536  # open files of a process: fewer end a run; a cluster of many nodes takes more
PROCESSES = 1024
CGROUP = Path("/sys/fs/cgroup")


def machine() -> Iterator[Finding]:
    cpus = len(os.sched_getaffinity(0))
    yield Finding(f"{cpus} CPU(s)") if cpus > 1 else note(f"{cpus} CPU(s): runs, but slowly")
    memory = f"{(free := available_memory() / GIB):.1f} GiB of memory free"
    enough = free >= MEMORY_GIB
    yield Finding(memory) if enough else note(f"{memory}: the quickstart takes up to {MEMORY_GIB:g}")
    yield shared_memory()


def shared_memory() -> Finding:
    shm = shutil.disk_usage("/dev/shm")
    if shm.free >= SHM_GIB * GIB:
        return Finding(f"/dev/shm: {shm.free / GIB:.1f} GiB free")
    return problem(
        f"/dev/shm has {shm.free / GIB:.2f} of {shm.total / GIB:.2f} GiB free, and Ray's object store lies there: "
        "free some (in a container: --shm-size=2g), or lower cluster.object_store_gib",
    )


def disk(run_root: Path) -> Iterator[Finding]:
    there = next(path for path in (run_root, *run_root.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem(f"run.root={run_root}: {there} cannot be written to; give run.root=<folder>")
        return
    text = f"run.root={run_root}: {(free := shutil.disk_usage(there).free / GIB):.1f} GiB free"
    if free >= DISK_GIB:
        yield Finding(text)
    else:
        yield problem(f"{text}, and a run takes {DISK_GIB:g} and more; free some, or give run.root=<folder>")


def limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"open files: {_limit(soft)} (at most {_limit(hard)})"
    if _below(hard, FILES):
        yield problem(
            f"{text}, and Ray with a run takes more than {FILES}: raise the limit in /etc/security/limits.conf (in a "
            "container: --ulimit nofile=65536)"
        )
    elif _below(soft, FILES):
        yield note(f"{text}: Ray raises its own; for everything else `ulimit -n {min(hard, MANY_FILES)}` first")
    elif _below(hard, MANY_FILES):
        yield note(f"{text}: enough here; the head of many nodes needs a connection or more for each")
    else:
        yield Finding(text)
    allowed, whose = processes()
    if _below(allowed, PROCESSES):
        yield problem(f"{_limit(allowed)} processes and threads ({whose}): Ray and torch start more: raise it")
    else:
        yield Finding(f"processes and threads: {_limit(allowed)}")


def processes() -> tuple[int, str]:
    """The smaller of the user's and the container's limit (-1: none), and which of them it is."""
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    try:
        group = int((CGROUP / "pids.max").read_text())
    except (OSError, ValueError):  # no limit ("max"), or an older kernel's layout
        group = -1
    known = [(count, whose) for count, whose in ((user, "ulimit -u"), (group, "--pids-limit")) if count >= 0]
    return min(known, default=(-1, ""))


def clock() -> Iterator[Finding]:
    """Clocks of several hosts must agree to within a second or so for timelines; the cluster's check compares them."""
    state = kernel_clock()
    if state is None:
        yield Finding("clock: its state cannot be read here (a container, perhaps)")
    elif state:
        yield Finding("clock: synchronized by NTP")
    else:
        yield note("clock: not synchronized (timedatectl set-ntp true): timelines of several hosts would not agree")


def kernel_clock() -> bool | None:
    """Whether the kernel's clock is synchronized, by adjtimex(2), which changes nothing; None: unknown."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != 5  # TIME_ERROR


def available_memory() -> int:
    """Bytes: what the kernel can give, within this container's limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    try:
        limit = int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no limit ("max"), or an older kernel's layout
        return free
    return min(free, limit)


def _below(limit: int, least: int) -> bool:
    return 0 <= limit < least  # RLIM_INFINITY is -1


def _limit(count: int) -> str:
    return "no limit" if count < 0 else f"{count:,}"
