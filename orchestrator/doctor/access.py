"""Whether a host can read the model and the data of a run.

In: model.path, data.path. Out: a word or a reason. Must not know: Ray, what is in the files. Standard library only, so
that it runs on any node.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.findings import Finding, note, problem

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".zst")


def model_fault(path: str) -> str | None:
    """Why a model's folder cannot be read; None: it can."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return "there is no such folder"
    if not os.access(folder / "config.json", os.R_OK):
        return "its config.json is not there, or cannot be read"
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        return "it holds no weights (*.safetensors)"
    unreadable = next((one for one in weights if not _readable(one)), None)
    return f"{unreadable.name} cannot be read" if unreadable else None


def data_fault(path: str) -> str | None:
    """Why a file, a folder or a pattern cannot be read; None: it can."""
    full = os.path.expanduser(path)
    found = [Path(one) for one in glob.glob(full)] if glob.has_magic(full) else [Path(full)]
    if not found or not found[0].exists():
        return "there is no such file"
    files = [one for path in found for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file()]
    if not files:
        return "it holds no file"
    unreadable = next((one for one in files if not _readable(one)), None)
    return f"{unreadable} cannot be read" if unreadable else None


def local(path: str) -> bool:
    """Whether it names something on a disk, rather than a hub id or an address."""
    if "://" in path:
        return False
    hub_id = path.count("/") == 1 and not path.startswith(("/", ".", "~")) and Path(path).suffix not in SUFFIXES
    return not hub_id or os.path.exists(path)


def access(model: str | None, data: str | None) -> Iterator[Finding]:
    """On this host, where the driver of a run reads its data."""
    for key, path, fault in (("model.path", model, model_fault), ("data.path", data, data_fault)):
        if path is None:
            continue
        if not local(path):
            yield note(
                f"{key}={path} is no local path: `thinkless train` fetches it, with what HF_HOME and HF_TOKEN say"
            )
        elif (reason := fault(path)) is not None:
            yield problem(f"{key}={path}: {reason} on this host: give a path that exists here, or copy it")
        else:
            yield Finding(f"{key}={path} can be read here")


def _readable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True
