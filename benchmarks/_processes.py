"""A command's processes: which they are, their memory, and an end of all at once.

In: a process id, a mark in the environment. Out: process ids, GiB. Must not know: what the command is.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

MARK = "THINKLESS_BENCH_MARK"  # environment variable by which processes that left their parent are found
GONE_S = 30.0  # that the kernel may take to end killed processes


def family(root: int) -> list[int]:
    """`root` and everything that descends from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return sorted(members)


def marked(mark: str) -> set[int]:
    """Living processes that were started with this value of MARK."""
    wanted, found = f"{MARK}={mark}".encode(), set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
    return found


def end_all(process: subprocess.Popen[bytes], mark: str) -> None:
    """SIGKILL to a process, its descendants and all that have the mark, until none is left."""
    there = marked(mark)
    if process.poll() is None:  # else its number may be another's
        there |= {*family(process.pid)}
    end = time.monotonic() + GONE_S
    while there:
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise TimeoutError(f"timed out after {GONE_S:g} s waiting for killed processes to go: {sorted(there)}")
        process.poll()
        time.sleep(0.05)
        there = marked(mark)


def proportional(pid: int) -> float:
    """GiB; pages that several processes share are divided among them."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has just ended
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    return int(found.group(1)) / 2**20 if found else 0.0
