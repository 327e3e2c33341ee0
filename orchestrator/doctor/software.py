"""Packages against the lock, the compiler, GPUs and their driver against the wheels.

In: this interpreter's environment, nvidia-smi. Out: findings. Must not know: clusters. Heavy libraries are looked for,
not imported.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from orchestrator.cluster.hardware import nvidia_smi
from orchestrator.doctor.findings import Finding, note, problem
from rollout.base.gpu import torch_build

PACKAGES = ("torch", "vllm", "ray", "deepspeed", "transformers", "hydra", "omegaconf", "sympy", "datasets", "numpy")
DISTRIBUTIONS = {"hydra": "hydra-core"}  # of packages with another name
# The oldest NVIDIA driver for the wheels of a CUDA generation (CUDA's release notes, minor version compatibility)
DRIVERS = {13: 580, 12: 525, 11: 450}
ROOT = Path(__file__).parents[2]


def packages() -> Iterator[Finding]:
    missing = [module for module in PACKAGES if importlib.util.find_spec(module) is None]
    versions = {module: version(module) for module in PACKAGES if module not in missing}
    listed = ", ".join(f"{module} {number}" for module, number in versions.items())
    yield Finding(f"Python {platform.python_version()} ({sys.executable}): {listed or 'no packages'}")
    if missing:
        yield problem(f"{', '.join(missing)} cannot be imported: run `make setup`, or see docs/install.md")
    if "torch" in missing:
        return
    lock = ROOT / f"requirements-{'cpu' if torch_build()[1] is None else 'gpu'}.lock"
    if lock.is_file():
        other = different(versions, lock.read_text(encoding="utf-8"))
        if other:
            yield note(f"{lock.name} has {', '.join(other)}: only its versions were run together (docs/install.md)")


def different(versions: dict[str, str], lock: str) -> list[str]:
    """["torch 2.13.0 (installed: 2.12.0)"] of what a lock file pins otherwise."""
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\;]+)", lock, re.M))
    found = []
    for module, number in versions.items():
        name = DISTRIBUTIONS.get(module, module)
        wanted = pinned.get(name) or pinned.get(f"{name}-cpu")
        if wanted and wanted.partition("+")[0] != number.partition("+")[0]:
            found.append(f"{module} {wanted} (installed: {number})")
    return found


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
        lines = nvidia_smi("name,memory.total,driver_version,memory.used")
    except OSError as error:
        yield problem(f"nvidia-smi {error}")
        return
    for line in lines:
        yield Finding(f"GPU: {line.rpartition(',')[0]}")
        used = re.search(r"(\d+) MiB$", line.strip())
        if used and int(used[1]) > 1024:
            yield note(f"{int(used[1]) / 1024:.1f} GiB of that GPU are in use by others: `nvidia-smi` lists who")
    if importlib.util.find_spec("torch"):
        build, cuda = torch_build()
        if cuda is None:
            yield note(f"torch {build} is a build without CUDA: device=gpu needs that of requirements-gpu.lock")
        elif lines:
            yield driver(cuda, lines[0].split(",")[2].strip())
            if not shutil.which("nvcc"):
                yield note("nvcc is missing, with which DeepSpeed compiles its operators: install the CUDA toolkit")


def driver(cuda: str, installed: str) -> Finding:
    """Whether a driver is new enough for torch's CUDA. cuda: "13.0"; installed: "580.65.06"."""
    generation, number = int(cuda.partition(".")[0]), installed.partition(".")[0]
    least = DRIVERS.get(generation)
    if least is None or not number.isdigit():
        return note(f"driver {installed} under torch for CUDA {cuda}: which one it needs is not known here")
    if int(number) < least:
        return problem(
            f"driver {installed} is too old for torch's CUDA {cuda}, which needs {least} or later: update the driver, "
            "or install wheels of an older CUDA"
        )
    return Finding(f"driver {installed} fits torch's CUDA {cuda} ({least} or later)")


def version(package: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return "of an unknown version"
