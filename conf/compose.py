"""Composes overrides into one typed, checked `Config`, by Hydra; every mistake is one clear line.

In: command-line arguments. Out: `Config`. Must not know: what a command does with it.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import multirun, renamed
from conf.check import check
from conf.errors import BadConfig, brief
from conf.flags import NO_FLAGS, Flags
from conf.groups import FOLDER, groups, options
from conf.masking import MASK, masked
from conf.overrides import quoted, read_overrides
from conf.schema import Config, WarmupConf
from conf.seal import unsealed
from conf.settings import all_keys, sections, settings
from conf.shell import command_line


@functools.cache
def register() -> None:
    ConfigStore.instance().store(name="schema", node=Config(warmup=WarmupConf()))  # so that warmup.path=... is a key
    multirun.register()


def typed(config: Any) -> Config:
    """The composed configuration as dataclasses. Raises BadConfig when a value does not fit its type."""
    try:
        if missing := OmegaConf.missing_keys(config):
            raise BadConfig(f"{min(missing)} must have a value, got ???, which stands for none")
        found = OmegaConf.to_object(config)
        if _more(found):  # merged into the structure, which refuses what +key=value added, or takes what is no Config
            plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
            found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except (OmegaConfBaseException, OverflowError) as error:
        raise BadConfig(one_line(error)) from error
    assert isinstance(found, Config)
    return replace(found, warmup=configured(found.warmup))


def _more(found: Any) -> bool:
    """Whether it is no settings, or some have attributes that are none of the schema."""
    return not isinstance(found, Config) or _added(found)


def _added(settings: Any) -> bool:
    if not is_dataclass(settings):
        return False
    return vars(settings).keys() != {one.name for one in fields(settings)} or any(map(_added, vars(settings).values()))


def configured(warmup: WarmupConf | None) -> WarmupConf | None:
    """`warmup`, or None where no warm-up takes place. Raises BadConfig for settings of one that does not."""
    if warmup is None or warmup.path is not None or warmup.steps != 0:
        return warmup
    none = WarmupConf()
    for setting in fields(WarmupConf):
        if (value := getattr(warmup, setting.name)) != getattr(none, setting.name):
            raise BadConfig(
                f"warmup.{setting.name}={value} without a warm-up (warmup.path is null, warmup.steps is 0): give "
                "warmup.path=<pairs>, or warmup.steps for pairs of generated arithmetic; warmup=none is none at all"
            )
    return None


def from_file(path: Path, arguments: list[str]) -> Config:
    """A run's saved configuration with overrides (key=value) on top. Raises BadConfig."""
    for argument in map(renamed.override, arguments):
        key, equals, value = argument.partition("=")
        if key in groups() and value != "null":
            raise BadConfig(
                brief(f"override {argument!r} cannot be applied to a saved run: write single keys, {key}.<key>=value")
            )
        if not equals or key not in all_keys():
            name = key.lstrip("+~")
            hint = f"; did you mean {name!r}?" if name in all_keys() else nearest(name)
            raise BadConfig(brief(f"write key=value; override {argument!r} cannot be applied to a saved run{hint}"))
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), _saved(path))
    except OmegaConfBaseException as error:
        raise BadConfig(f"{path}: {one_line(error)}") from error
    try:
        changes = OmegaConf.create()
        for override in read_overrides(arguments):
            OmegaConf.update(changes, override.key_or_group, override.value())
        return typed(OmegaConf.merge(config, changes))
    except (OmegaConfBaseException, HydraException, OverflowError) as error:
        raise BadConfig(one_line(error)) from error


class _TextLoader(yaml.SafeLoader):
    """Leaves every scalar but null as its characters; what is no text in the schema, OmegaConf converts."""


_NULL = "tag:yaml.org,2002:null"
_TextLoader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] == _NULL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _saved(path: Path) -> Any:
    """The settings in a YAML file."""
    try:
        content = yaml.load(unsealed(path), _TextLoader)
        if not content or not isinstance(content, dict):
            raise BadConfig(f"{path} holds no configuration: it must be key: value, by sections")
        return OmegaConf.create(renamed.saved(content))
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfig(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def to_yaml(conf: Config) -> str:
    """Without secrets: see `refuse_masked`."""
    plain = OmegaConf.to_container(OmegaConf.structured(conf), enum_to_str=True)
    return OmegaConf.to_yaml(OmegaConf.create(masked(plain)))


def refuse_masked(conf: Config) -> None:
    """BadConfig for a saved configuration that lacks a secret."""
    for key, setting in settings().items():
        if MASK in str(value := setting.of(conf)):
            raise BadConfig(f"{key} was saved as {value}, since a run's folder holds no secrets: give {key}=... again")


def run_command(
    command: str,
    body: Callable[[Config], None],
    arguments: list[str],
    flags: Flags = NO_FLAGS,
    sweep: multirun.Sweep | None = None,
) -> None:
    """Compose `arguments` (overrides), check, and call `body`: once, for each member of a multirun, or, where `flags`
    ask for something to be shown, not at all.

    sweep: runs the members of a multirun instead; without it they run here, one after the other, until one fails.

    Raises BadConfig for every mistake in keys, values, groups or their combination.
    """
    failed: list[BaseException] = []

    def task(config: DictConfig) -> None:
        if failed:  # members of a multirun come one after the other; the first failure is the last member
            return
        try:
            conf, job = typed(config), HydraConfig.get()
            if job.mode is RunMode.MULTIRUN and conf.run.name is not None:
                conf.run.name = f"{conf.run.name}-{job.job.num}"  # a folder for each member
            check(conf, command)
            body(conf)
        except BaseException as error:  # raised again below: Hydra would add lines of its own
            failed.append(error)

    if sum((flags.multirun, flags.cfg is not None, flags.info is not None)) > 1:
        raise BadConfig("--multirun, --cfg and --info exclude each other")
    if flags.cfg is None and (flags.resolve or flags.package):
        raise BadConfig("--resolve and --package belong to --cfg")
    try:
        with _hydra(arguments, flags) as (app, name, overrides):
            if flags.info:
                app.show_info(flags.info, name, overrides)
            elif flags.cfg:
                app.show_cfg(name, overrides, flags.cfg, flags.package, flags.resolve)
            elif flags.multirun or (flags.own_files and app.get_mode(name, overrides) is RunMode.MULTIRUN):
                _sweep(app, name, overrides, multirun.Task(command, task, typed, sweep or _InTurn(body), failed))
            else:
                app.run(name, task, overrides)
    except BadConfig:
        if failed:
            raise failed[0] from None
        raise
    if failed:
        raise failed[0]


class _InTurn:
    """Runs the members of a multirun in this process, until one fails."""

    def __init__(self, body: Callable[[Config], None]):
        self._body, self._root, self._name, self._done = body, Path(), "", 0

    @contextmanager
    def opened(self, base: Config, name: str, jobs: bool) -> Iterator[Path]:
        self._root, self._name = Path(base.run.root), base.run.name or ""
        yield self._root

    def run(self, members: list[multirun.Member], launching: multirun.Launching) -> list[float | None]:
        for member in members:
            conf = member.conf
            conf.run.name = f"{self._name}-{self._done}" if self._name else None  # a folder for each member
            self._done += 1
            self._body(conf)
        return [None] * len(members)


def _sweep(app: Any, name: str, overrides: list[str], task: multirun.Task) -> None:
    multirun.refuse_swept(overrides)
    base = app.compose_config(name, [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    conf = typed(multirun.settings_of(base))
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items()]
    jobs = str(base.hydra.launcher._target_) == multirun.RayJobsConf._target_
    with task.sweep.opened(conf, f"sweep-{multirun.digest([*overrides, *params])[:8]}", jobs) as folder:
        try:
            app.multirun(name, task, [*overrides, *multirun.sweeper_overrides(base, conf, overrides, folder)])
        except BaseException:
            if task.failed:  # as it is, whatever became of it on its way through the sweeper
                raise task.failed[0] from None
            raise


def composed(arguments: list[str], flags: Flags = NO_FLAGS) -> Config:
    """The configuration of these overrides, not checked for whether it can run. Raises BadConfig."""
    with _hydra(arguments, flags) as (_, name, overrides):
        return typed(hydra.compose(name, overrides))


@contextmanager
def _hydra(arguments: list[str], flags: Flags) -> Iterator[tuple[Any, str, list[str]]]:
    """(what `hydra.main` runs programs by, the name of the YAML file to begin with, overrides for it).

    `initialize_config_dir` makes it and GlobalHydra holds it: sweepers, launchers and callbacks are Hydra's own, and
    nothing goes by sys.argv. What Hydra raises becomes BadConfig.
    """
    register()
    read = read_overrides(arguments, flags.multirun)
    overrides = [one.input_line or "" for one in read]
    name = (flags.config_name or "config").removesuffix(".yaml")
    main = str(FOLDER) if flags.config_path is None else _folder("--config-path", flags.config_path)
    if flags.config_dir is not None:
        further = _folder("--config-dir", flags.config_dir)
        # Hydra looks for the file to begin with in the first folder alone
        if flags.config_name and Path(further, f"{name}.yaml").is_file():
            main, further = further, main
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{further}')}]")
    with one_line_errors(read), hydra.initialize_config_dir(main, job_name="thinkless", version_base="1.3"):
        yield GlobalHydra.instance().hydra, name, overrides


@contextmanager
def one_line_errors(overrides: Sequence[Override]) -> Iterator[None]:
    """Around what composes `overrides`: errors of Hydra and OmegaConf become BadConfig."""
    try:
        yield
    except BadConfig:
        raise
    except AssertionError as error:
        keys = [one.key_or_group for one in overrides]
        below = [(key, section.key) for key in keys for section in sections() if key.startswith(f"{section.key}.")
                 and section.optional]  # fmt: skip
        if not below or "Unexpected type for root" not in str(error):  # OmegaConf's word for a key below null
            raise
        key, section = below[-1]
        group = section.partition(".")[0]
        raise BadConfig(
            f"{key}: {section} is null here, so it has no settings; choose a {group}=<option> that sets it"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError, OverflowError) as error:
        raise BadConfig(one_line(error)) from error


def _folder(flag: str, path: str) -> str:
    if not Path(path).is_dir():
        raise BadConfig(f"{flag} {path}: no such folder")
    return os.path.abspath(path)


def one_line(error: BaseException) -> str:
    """What a Hydra or OmegaConf error says, in one line, with the nearest valid key or option."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error}\n{cause}"
    if found := re.search(r"Could not find '([\w/]+)/([\w.-]*)'", text):
        group, option = found.groups()
        known = options(group)
        guess = difflib.get_close_matches(option, known, 1)
        hint = f"; did you mean {group}={guess[0]}?" if guess else ""
        there = (
            f" (there are: {', '.join(known)})" if known else f": has the package that provides {group} been installed?"
        )
        return f"unknown {group} {option!r}{hint}{there}"
    if found := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text):
        full = re.search(r"full_key: (\S+)", text)
        key = full.group(1) if full else found.group(1)
        return f"unknown key {key!r}{nearest(key)}"
    if found := re.search(r"Merge error: (\w+) is not a subclass of (\w+)", text):
        key = next(section.key for section in sections() if section.kind == found[2])
        return f"{key} has settings of its own: write {key}.<key>=value, not one {found[1]} for all of them"
    first = str(cause).strip().splitlines()[0]
    key_line = re.search(r"full_key: (\S+)", text)
    return brief(f"{key_line.group(1)}: {first}" if key_line and key_line.group(1) not in first else first)


def nearest(key: str) -> str:
    if (now := renamed.today(key)) != key:
        return f"; it is now called {now!r}"
    known = [*all_keys(), *groups()]
    tail = key.rpartition(".")[2]
    guess = difflib.get_close_matches(key, known, 1) or [k for k in known if k.rpartition(".")[2] == tail]
    if not guess:
        last = {k.rpartition(".")[2]: k for k in reversed(known)}
        guess = [last[m] for m in difflib.get_close_matches(tail, last, 1, 0.7)]
    return f"; did you mean {guess[0]!r}?" if guess else f"; all keys: {command_line('train', '--help')}"
