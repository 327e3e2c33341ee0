"""What is submitted: a command line, checked, with the name of its job and the files that it needs.

In: the words behind `thinkless submit`. Out: a `Submission`; BadConfig or BadInput for settings that cannot run, before
anything is uploaded. Must not know: Ray.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from conf.check import check
from conf.compose import composed, from_file
from conf.errors import BadConfig
from conf.flags import Flags
from conf.masking import mask
from conf.schema import Config, Device
from conf.shell import command_line
from orchestrator.jobs.job import Job
from orchestrator.training import copies, run_dir
from rollout.base.errors import BadInput
from rollout.data.addresses import is_address

SUBMITTED = ("quickstart", "train", "distill", "warmup", "evaluate")
REPEATED = ("distill", "warmup")  # go on where they were stopped when the same command is given again
MODULE = {"train": "orchestrator.train"}  # run as `python3 -m`; the other commands as `orchestrator <command>`


@dataclass(frozen=True)
class Submission:
    command: str
    words: tuple[str, ...]  # behind the command
    name: str | None  # of the job and, for one that trains, of its run; None: the next free <prefix>-001
    prefix: str
    folder: str | None  # of the run in the job, "~/thinkless/runs/x"; without a name: its parent; None: it makes none
    steps: int | None
    gpu: bool
    named: tuple[str, ...]  # relative paths and globs among its settings
    makes: str | None = None  # the folder that it writes in the job, for one that makes no run; None: not named
    keys: tuple[str, ...] = ()  # environment variables with keys of endpoints

    @property
    def entrypoint(self) -> list[str]:
        """The job's command line. `python3` may be the cluster's: the project's own takes over where there is one."""
        module = MODULE.get(self.command)
        return ["python3", "-m", *([module] if module else ["orchestrator", self.command]), *self.words]

    def metadata(self, version: str, folder: Path) -> dict[str, str]:
        """folder: whose files the job is given."""
        facts = {"command": self.command, "from": str(folder.absolute()), "thinkless": version}
        facts |= {"folder": self.folder} if self.folder and self.name else {}
        return facts | ({"steps": str(self.steps)} if self.steps else {})


def refuse_secrets(words: Iterable[str]) -> None:
    """BadInput for one on a command line: Ray shows a job's to whoever lists jobs, and writes it to logs."""
    for word in words:
        if (shown := mask(word)) != word:
            key = word.partition("=")[0]
            raise BadInput(
                f"{shown}: a job's command line is shown to whoever lists jobs; put the secret into an environment "
                f"variable of the hosts that run it, and write {key}='\"...${{oc.env:NAME}}...\"'"
            )


def read(words: list[str], flags: Flags) -> Submission:
    """Raises BadConfig or BadInput for what `thinkless <words>` would refuse before it starts."""
    if not words or words[0] not in SUBMITTED:
        got = f", got {words[0]}" if words else ""
        raise BadConfig(f"thinkless submit takes a command and its settings: {', '.join(SUBMITTED)}{got}")
    command, *rest = words
    given = {key: value for key, _, value in (word.partition("=") for word in rest)}
    run = given.get("resume") if command == "train" else given.get("run.name") if command == "evaluate" else None
    if run not in (None, "null"):
        return _of_run(command, rest, str(run), flags)
    conf = composed(["experiment=quickstart", *rest] if command == "quickstart" else rest, flags)
    check(conf, "train" if command == "quickstart" else command)
    return of_settings(command, rest, conf, flags)


def of_settings(command: str, words: list[str], conf: Config, flags: Flags) -> Submission:
    """A command whose settings have been composed and checked. Raises BadInput for a name that makes no folder."""
    refuse_secrets(words)
    further = [word for name in ("config_dir", "config_path", "config_name") for word in _flag(name, flags)]
    trains = command in ("quickstart", "train")
    makes = _made(command, conf)
    name = conf.run.name if trains else f"distill-{Path(makes).name}" if makes and command == "distill" else None
    if name is not None:
        run_dir.refuse_name(name)
    parent = _in_job(conf.run.root)
    return Submission(
        command,
        (*further, *words),
        name,
        name or command,
        (f"{parent}/{name}" if name else parent) if trains else None,
        conf.run.steps if trains else None,
        Device.gpu in (conf.rollout.device, conf.learner.device),
        (*_paths(conf), *filter(None, (flags.config_dir, flags.config_path))),
        makes,
        _keys(conf) if command == "distill" else (),
    )


def _made(command: str, conf: Config) -> str | None:
    """The folder of a data set, or of a warmed-up model that has one of its own."""
    if command == "distill":
        return _in_job(conf.distill.out or f"{conf.run.root}/distilled")
    return _in_job(conf.warmup.out) if command == "warmup" and conf.warmup and conf.warmup.out else None


def _keys(conf: Config) -> tuple[str, ...]:
    teachers = (conf.distill.think, conf.distill.short)
    return tuple(dict.fromkeys(one.key_env for one in teachers if one.endpoint and one.key_env))


def _in_job(folder: str) -> str:
    """A folder of the settings on the host that runs the job (`run_root.root`)."""
    return folder if Path(folder).expanduser().is_absolute() else f"~/thinkless/{folder}"


def again(entrypoint: str) -> list[str] | None:
    """The words behind `thinkless submit` of a job whose same command goes on; None: of another one."""
    words = shlex.split(entrypoint)[2:]
    return words[1:] if words[:1] == ["orchestrator"] and words[1:2] and words[1] in REPEATED else None


def chosen(one: Submission, jobs: Iterable[Job]) -> Submission:
    """With a name: the next free one of its prefix, among the head's jobs and, as far as it can be seen from here, in
    the folder of runs. Raises BadInput for the name of a run that exists."""
    parent = Path(one.folder).expanduser() if one.folder else None
    if one.name is not None:
        if parent is not None and (parent / "config.yaml").is_file() and not _goes_on(one):
            raise BadInput(
                f"the run {parent} exists: choose another run.name, or go on with it: "
                + command_line("resume", one.name)
            )
        return one
    taken = {job.name for job in jobs} | ({path.name for path in parent.glob(f"{one.prefix}-*")} if parent else set())
    numbers = [int(found[1]) for name in taken if (found := re.fullmatch(rf"{re.escape(one.prefix)}-(\d+)", name))]
    name = f"{one.prefix}-{max(numbers, default=0) + 1:03d}"
    if one.folder is None:
        return replace(one, name=name)
    return replace(one, name=name, words=(*one.words, f"run.name={name}"), folder=f"{one.folder}/{name}")


def _goes_on(one: Submission) -> bool:
    return any(word.startswith("resume=") for word in one.words)


def _of_run(command: str, words: list[str], run: str, flags: Flags) -> Submission:
    """A command that goes on with a run or measures it. Its settings are the run's, which may not be seen from here:
    then those that are given are checked alone."""
    refuse_secrets(words)
    if flags.own_files:
        raise BadConfig("a saved run takes no YAML files of yours; its settings change by key=value")
    key = "resume" if command == "train" else "run.name"
    changes = [word for word in words if not word.startswith(f"{key}=")]
    root = next((word.partition("=")[2] for word in reversed(changes) if word.startswith("run.root=")), None)
    parent = root or "runs"
    parent = _in_job(parent)
    name = copies.split(run)[1] if is_address(run) else run
    folder = name if Path(name).expanduser().is_absolute() else f"{parent}/{name}"
    saved = Path(folder).expanduser() / "config.yaml"
    if saved.is_file():
        conf = from_file(saved, changes)
        check(conf, command)
    else:
        conf = composed(changes)
    return Submission(
        command,
        tuple(words),
        Path(folder).name if command == "train" else None,
        f"evaluate-{Path(folder).name}",
        folder if command == "train" else None,
        conf.run.steps if saved.is_file() or any(word.startswith("run.steps=") for word in changes) else None,
        Device.gpu in (conf.rollout.device, conf.learner.device),
        tuple(_paths(conf)),
    )


def _flag(name: str, flags: Flags) -> Iterator[str]:
    if value := getattr(flags, name):
        yield from (f"--{name.replace('_', '-')}", value)


def _paths(conf: Config) -> Iterator[str]:
    """Files that settings name: models, data, chat templates, and the modules of reward functions and adapters."""
    for name, value in _leaves(conf):
        if name in ("path", "chat_template", "model", "against"):  # the last two: teachers, evaluation sets
            yield from (str(one) for one in (value if isinstance(value, list) else [value]))
        elif name in ("function", "adapter"):
            yield f"{str(value).partition(':')[0].replace('.', '/')}.py"


def _leaves(conf: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(conf):
        value = getattr(conf, field.name)
        if is_dataclass(value):
            yield from _leaves(value)
        elif value is not None:
            yield field.name, value
