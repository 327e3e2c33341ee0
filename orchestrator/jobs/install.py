"""The packages for hosts on which this project is not installed, as Ray's runtime environment.

In: the checkout's lock. Out: `runtime_env` entries for uv or pip. Must not know: settings, Ray.

Ray makes an environment from them on every host once per session, which takes minutes the first time. The lock's hashes
are left out: Ray hands a job's runtime environment on in one environment variable, which may have 128 KiB.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from orchestrator.base.source import SOURCE
from rollout.base.errors import BadInput

WAYS = ("uv", "pip")
SETUP_S = 3600  # that the first installation on a host may take


def install(way: str, gpu: bool, source: Path = SOURCE) -> dict[str, Any]:
    """`runtime_env` entries that install the lock of the GPU or the CPU environment. Raises BadInput without a lock.

    way: "uv" or "pip", of which Ray takes the one that is given. uv is sent to PyTorch's own index for the CPU build of
    torch, unless UV_FIND_LINKS is set here: then the hosts' UV_FIND_LINKS must lead to it, as pip's configuration does.
    """
    lock = source / f"requirements-{'gpu' if gpu else 'cpu'}.lock"
    if not lock.is_file():
        raise BadInput(f"--install {way} needs {lock.name}, which is part of a checkout: submit from one")
    packages = pinned(lock.read_text())
    if way == "uv":
        torch = [] if gpu or os.environ.get("UV_FIND_LINKS") else ["--torch-backend", "cpu"]  # as `make lock` does
        entry = {"packages": packages, "uv_check": False, "uv_pip_install_options": ["--no-deps", *torch]}
    else:
        entry = {"packages": packages, "pip_check": False, "pip_install_options": ["--no-deps"]}
    return {way: entry, "config": {"setup_timeout_seconds": SETUP_S}}


def pinned(lock: str) -> list[str]:
    """["aiohttp==3.14.5", ...]: the packages of a lock, with their markers and without their hashes."""
    lines = [re.sub(r"\s*\\$", "", line).strip() for line in lock.splitlines()]
    return [line for line in lines if re.match(r"[A-Za-z0-9][\w.\-]*(\[[\w,\-]+\])?==", line)]
