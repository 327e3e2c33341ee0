"""Refuses `device=gpu` where torch cannot use one, in a line that names the wheel.

In: the setting that asks for a GPU. Out: nothing, or BadInput. Must not know: what the GPU is for. torch is imported
only in the process that would use the GPU; what the driver asks is read from torch's files.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

from rollout.base.errors import BadInput


def refuse_no_gpu(setting: str) -> None:
    """In the process that would use it: BadInput when torch is a build without CUDA, or sees no GPU.

    setting: "learner.device" or "rollout.device".
    """
    import torch

    if torch.version.cuda is None:
        raise BadInput(cpu_build(setting, torch.__version__))
    if not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise BadInput(
            f"{setting}=gpu: torch {torch.__version__} sees no GPU on {socket.gethostname()}"
            f"{'' if seen is None else f' (CUDA_VISIBLE_DEVICES={seen!r})'}: see what `nvidia-smi` says there; CUDA "
            f"{torch.version.cuda} needs a driver of its generation (docs/install.md, GPUs); or set {setting}=cpu"
        )


def refuse_cpu_build(setting: str) -> None:
    """On the host whose processes would use it, without importing torch: BadInput when torch has no CUDA."""
    version, cuda = torch_build()
    if cuda is None:
        raise BadInput(cpu_build(setting, version))


def cpu_build(setting: str, version: str) -> str:
    plain = version.partition("+")[0]
    return (
        f"{setting}=gpu: torch {version} on {socket.gethostname()} is a build without CUDA (pip takes it silently from "
        f"a folder or index that has a +cpu wheel): in an environment for GPUs install the CUDA wheel torch=={plain}, "
        "with `pip install --require-hashes -r requirements-gpu.lock` (docs/install.md, GPUs); or set "
        f"{setting}=cpu"
    )


def torch_build() -> tuple[str, str | None]:
    """torch's version and its CUDA version, None for a build without; from its version.py. BadInput without torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise BadInput("torch is not installed: run `make setup`, or see docs/install.md")
    values: dict[str, Any] = {}
    for line in ast.parse((Path(found.origin).parent / "version.py").read_text()).body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and isinstance(value := getattr(line, "value", None), ast.Constant):
            values[target.id] = value.value
    return str(values["__version__"]), values["cuda"]
