"""This host's hardware, and how much memory a run uses on it.

In: nothing. Out: plain facts. Must not know: Ray, runs. psutil is imported where it is used, since `thinkless doctor`
asks for GPUs where no package is installed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any


def hardware() -> dict[str, Any]:
    """{"cpu": model, "cores": usable ones, "memory_gib": total, "gpus": ["NVIDIA H100 80GB HBM3, 79.6 GiB", ...]}."""
    import psutil

    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return {
        "cpu": " ".join(model.group(1).split()) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    """Name and memory of each; none where NVIDIA's tool is missing or does not answer."""
    try:
        rows = [line.rpartition(",") for line in nvidia_smi("name,memory.total", "csv,noheader,nounits")]
    except OSError:
        return []
    return [f"{name.strip()}, {float(mib) / 1024:.1f} GiB" for name, comma, mib in rows if comma]


def nvidia_smi(fields: str, form: str = "csv,noheader") -> list[str]:
    """A line of `fields` (its words, between commas) for each GPU. OSError says why NVIDIA's tool does not tell."""
    query = ["nvidia-smi", f"--query-gpu={fields}", f"--format={form}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        raise OSError("did not answer within 20 s: the driver hangs") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise OSError(f"fails: {last[0] if last else f'exit code {done.returncode}'}")
    return done.stdout.strip().splitlines()


def memory_available_gib() -> float:
    """Memory of this host that processes can still take."""
    import psutil

    return round(psutil.virtual_memory().available / 2**30, 3)


def memory_used_gib() -> float | None:
    """Memory of this process and its descendants, GiB; shared pages count once (Pss).

    None on a cluster that was joined: its actors are not descendants.
    """
    import psutil

    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    total, raylet = 0, False
    for process in family:
        with contextlib.suppress(OSError, psutil.Error):  # it has just ended
            raylet = raylet or process.name() == "raylet"
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.M))
    return round(total / 2**20, 3) if raylet else None
