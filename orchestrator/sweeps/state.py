"""A sweep's folder: sweep.yaml, which says what became of every member.

In: members by the hash of their overrides. Out: sweep.yaml, written whole after every change. Must not know: how
members are run, what their figures mean.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conf.errors import BadConfig
from conf.masking import masked
from conf.seal import sealed, unsealed
from conf.shell import command_line
from orchestrator.base.files import write_whole
from rollout.base.errors import BadInput

FILE = "sweep.yaml"
WAITING, RUNNING, FINISHED, PRUNED, FAILED, STOPPED = "waiting", "running", "finished", "pruned", "failed", "stopped"
OVER = (FINISHED, PRUNED)  # what the same command does not run again


@dataclass
class MemberState:
    number: int  # in the order in which the sweep met its members
    run: str  # name of its run folder, under run.root
    overrides: list[str]
    status: str = WAITING
    objective: float | None = None
    error: str | None = None  # why it failed, in one line; its log has all of it
    job: str | None = None  # of a member that is a Ray job: its id
    seconds: float = 0.0  # that it ran, over all attempts
    here: bool = False  # whether its run folder was there, as seen from here, when it last ended


@dataclass
class SweepState:
    folder: Path
    command: str
    objective: str
    maximized: bool
    members: dict[str, MemberState] = field(default_factory=dict)  # by conf.multirun.Member.key
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])  # by which its jobs are known

    def __iter__(self) -> Iterator[MemberState]:
        """Members in order of their numbers."""
        return iter(sorted(self.members.values(), key=lambda member: member.number))

    @property
    def name(self) -> str:
        return self.folder.name

    def own(self, member: MemberState) -> list[str]:
        """The overrides that not all members have; of an only member all. Example: ["run.steps=9", "run.seed=1"]."""
        if len(self.members) == 1:
            return member.overrides
        shared = set.intersection(*(set(one.overrides) for one in self))
        return [one for one in member.overrides if one not in shared]

    def run_folder(self, member: MemberState) -> Path:
        return self.folder.parent / member.run

    def log(self, member: MemberState) -> Path:
        return self.folder / f"{member.run}.log"

    def save(self) -> None:
        plain = masked(asdict(self))
        del plain["folder"]
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10_000)
        write_whole(self.folder / FILE, sealed(text))


def load(folder: Path) -> SweepState:
    """The sweep in `folder`. Raises BadInput when there is none, or sweep.yaml is none of ours."""
    path = folder / FILE
    if not path.is_file():
        known = sorted(one.parent.name for one in folder.parent.glob(f"*/{FILE}"))
        there = f"; sweeps there: {', '.join(known[-8:])}" if known else ""
        raise BadInput(f"no sweep {str(folder)!r}: it holds no {FILE}{there}")
    try:
        plain: dict[str, Any] = yaml.safe_load(unsealed(path))
        members = {key: MemberState(**one) for key, one in plain.pop("members").items()}
        return SweepState(folder=folder, members=members, **plain)
    except (BadConfig, yaml.YAMLError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def find(name: str, root: Path) -> Path:
    """The folder of a sweep, given as a path or as a name under `root`. Raises BadInput."""
    for folder in (Path(name).expanduser(), root / name):
        if (folder / FILE).is_file():
            return folder.absolute()
    known = sorted(one.parent.name for one in root.glob(f"*/{FILE}"))
    there = f"sweeps there: {', '.join(known[-8:])}" if known else (
        "no sweep is there yet: " + command_line("train", "--multirun", "experiment=quickstart", "run.seed=1,2,3")
    )  # fmt: skip
    raise BadInput(f"no sweep {name!r}, neither as a path nor in {root}; {there}")
