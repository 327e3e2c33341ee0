"""thinkless doctor: whether this machine can run, one line a check, in seconds.

In: the machine, environment variables, run.root. Out: lines "ok", "note" or "PROBLEM", each with what to do; exit code
1 when something prevents a run. Must not know: configuration beyond run.root; heavy libraries are looked for, not
imported.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from conf.shell import program
from orchestrator.base.waiting import waiting
from orchestrator.cluster.hardware import nvidia_smi
from orchestrator.cluster.local_rays import (
    NOT_PRIVATE,
    auto_address,
    local_rays,
    refuse_private,
    refuse_unusable_folder,
)
from orchestrator.training.run_root import root
from rollout.base.errors import BadInput
from rollout.base.gpu import torch_build

PACKAGES = ("torch", "vllm", "ray", "deepspeed", "transformers", "hydra", "omegaconf", "sympy", "datasets", "numpy")
DISTRIBUTIONS = {"hydra": "hydra-core"}  # of packages with another name
GIB = 2**30
MEMORY_GIB, SHM_GIB, DISK_GIB = 6.0, 1.0, 2.0  # what the quickstart takes, rounded up
HEAD_PORTS = {  # that `ray start --head` takes unless it is told another: option, default
    "--port": 6379, "--dashboard-port": 8265, "--ray-client-server-port": 10001,
    "--dashboard-agent-listen-port": 52365,
}  # fmt: skip


class Finding(NamedTuple):
    """A line of the output."""

    text: str
    level: str = "ok"


def note(text: str) -> Finding:
    """Worth knowing."""
    return Finding(text, "note")


def problem(text: str) -> Finding:
    """It prevents a run; `text` says what to do."""
    return Finding(text, "PROBLEM")


def main(options: Namespace) -> None:
    """Print all findings; options.given: run.root. Ends by SystemExit(1) when something prevents a run."""
    run_root = options.given.get("run.root", "runs")
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": packages,
        "processors and memory": machine,
        "disk": lambda: disk(root(run_root)),
        "the compiler": compiler,
        "GPUs": gpus,
        "Ray's folder": ray_folder,
        "other Rays": other_rays,
        "RAY_ADDRESS": ray_address,
    }
    problems = 0
    for name, check in checks.items():
        with waiting(f"checking {name}"):
            for finding in check():
                problems += finding.level == "PROBLEM"
                print(f"{finding.level:>7}  {finding.text}", flush=True)
    print(f"{problems} problem(s)" if problems else "nothing prevents a run")
    if problems:
        sys.exit(1)


def packages() -> Iterator[Finding]:
    missing = [module for module in PACKAGES if importlib.util.find_spec(module) is None]
    versions = ", ".join(f"{module} {_version(module)}" for module in PACKAGES if module not in missing)
    yield Finding(f"Python {platform.python_version()} ({sys.executable}): {versions or 'no packages'}")
    if missing:
        yield problem(f"{', '.join(missing)} cannot be imported: run `make setup`, or see docs/install.md")


def machine() -> Iterator[Finding]:
    cpus = len(os.sched_getaffinity(0))
    yield Finding(f"{cpus} CPU(s)") if cpus > 1 else note(f"{cpus} CPU(s): runs, but slowly")
    memory = f"{(free := available_memory() / GIB):.1f} GiB of memory free"
    enough = free >= MEMORY_GIB
    yield Finding(memory) if enough else note(f"{memory}: the quickstart takes up to {MEMORY_GIB:g}")
    shm = shutil.disk_usage("/dev/shm")
    if shm.free >= SHM_GIB * GIB:
        yield Finding(f"/dev/shm: {shm.free / GIB:.1f} GiB free")
    else:
        yield problem(
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


def compiler() -> Iterator[Finding]:
    """Nothing of a run on a CPU is compiled; vLLM's server compiles its model, and DeepSpeed on a GPU its operators."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = ([] if shutil.which("g++") else ["g++"]) + ([] if header.is_file() else [str(header)])
    if missing:
        yield note(
            f"{', '.join(missing)} is missing, which `vllm serve` needs without --enforce-eager, and DeepSpeed on "
            "a GPU: sudo apt-get install python3-dev g++",
        )
    else:
        yield Finding("g++ and Python's headers are there")


def gpus() -> Iterator[Finding]:
    if not shutil.which("nvidia-smi"):
        yield Finding("no NVIDIA driver, so no GPU: experiment=quickstart and others with device=cpu run here")
        return
    try:
        for line in nvidia_smi("name,memory.total,driver_version"):
            yield Finding(f"GPU: {line}")
        if importlib.util.find_spec("torch") and (build := torch_build())[1] is None:
            yield note(f"torch {build[0]} is a build without CUDA: device=gpu needs that of requirements-gpu.lock")
    except OSError as error:
        yield problem(f"nvidia-smi {error}")


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
        yield note(f"{whose} of {ray.user} runs here: {ray.address}, process {ray.pid}{jobs}")
    taken = {option: port for option, port in HEAD_PORTS.items() if _in_use(port)}
    if taken:
        instead = " ".join(f"{option}={free}" for option, free in zip(taken, _free_ports(len(taken)), strict=True))
        ports = ", ".join(map(str, taken.values()))
        start = " ".join([*program("ray"), "start", "--head"])
        yield note(f"in use, of the ports that a Ray head takes: {ports}; to start one here: {start} {instead}")
    else:
        yield Finding("the ports of a Ray head are free")
    if (Path.home() / ".ray" / "auth_token").is_file() and "RAY_AUTH_MODE" not in os.environ:
        yield note(
            "~/.ray/auth_token exists, so a head that is started here asks for it: export RAY_AUTH_MODE=token before "
            "`ray job submit`, or remove that file before `ray start`",
        )


def ray_address() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
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
                f"RAY_ADDRESS={address}: nobody answers there ({error.strerror or error}); {NOT_PRIVATE}",
            )
            return
    yield Finding(f"RAY_ADDRESS: runs join {address}")


def available_memory() -> int:
    """Bytes: what the kernel can give, within this container's limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit ("max"), or an older kernel's layout
        return free
    return min(free, limit)


def _version(package: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _in_use(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return True
    return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        return [probes.enter_context(socket.create_server(("", 0))).getsockname()[1] for _ in range(count)]
