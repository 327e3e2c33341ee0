"""Hydra at the door: overrides in, one typed and checked `Config` out; every mistake is one clear line.

In: command-line arguments. Out: `Config`. Must not know: what a command does with it.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.check import check
from conf.errors import BadConfig
from conf.schema import Config, WarmupConf
from conf.settings import all_keys
from conf.shell import command_line

FOLDER = str(Path(__file__).parent)


def register() -> None:
    ConfigStore.instance().store(name="schema", node=Config(warmup=WarmupConf()))  # so that warmup.path=... is a key


def typed(config: Any) -> Config:
    """The composed configuration as dataclasses. Raises BadConfig when a value does not fit its type."""
    try:
        plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
        found = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Config), plain)
        )  # refuses what +key=value added
    except OmegaConfBaseException as error:
        raise BadConfig(one_line(error)) from error
    assert isinstance(found, Config)
    return replace(found, warmup=configured(found.warmup))


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


def from_file(path: Path, overrides: list[str]) -> Config:
    """A run's saved configuration with overrides (`key=value`) on top."""
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in groups() and value != "null":
            raise BadConfig(
                f"override {override!r} cannot be applied to a saved run: write single keys, {key}.<key>=value"
            )
        if "=" not in override or override[0] in "+~" or key not in known_keys():
            raise BadConfig(f"write key=value; override {override!r} cannot be applied to a saved run{nearest(key)}")
    try:
        return typed(OmegaConf.merge(config, OmegaConf.from_dotlist(overrides)))
    except OmegaConfBaseException as error:
        raise BadConfig(one_line(error)) from error


def to_yaml(conf: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(conf))


def run_command(command: str, body: Callable[[Config], None], arguments: list[str]) -> None:
    """Compose `arguments` with Hydra (--help, --cfg job, --multirun and all), check, and call `body`.

    Raises BadConfig for every mistake in keys, values, groups or their combination.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors come here, to be told in one line

    failed: list[BaseException] = []

    def task(config: DictConfig) -> None:
        if failed:  # members of a multirun come one after the other; the first failure is the last member
            return
        try:
            conf = typed(config)
            if HydraConfig.get().mode is RunMode.MULTIRUN and conf.run.name is not None:
                conf.run.name = f"{conf.run.name}-{HydraConfig.get().job.num}"  # a folder for each member
            check(conf, command)
            body(conf)
        except BaseException as error:  # raised again below: Hydra would add lines of its own
            failed.append(error)

    flags, overrides = split(arguments)  # argparse wants flags before the overrides
    argv, sys.argv = sys.argv, [f"thinkless {command}", *flags, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=FOLDER, config_name="config")(task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise BadConfig(one_line(error)) from error
    finally:
        sys.argv = argv
    if failed:
        raise failed[0]


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(Hydra's flags with their values, overrides), wherever each stood. Raises BadConfig for an unknown flag."""
    from hydra._internal.utils import get_args_parser

    class Told(type(get_args_parser())):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise BadConfig(f"{message}; all groups and settings: {command_line('train', '--help')}")

    parser = get_args_parser()
    parser.__class__ = Told
    overrides = list(parser.parse_intermixed_args(arguments).overrides)
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, overrides


def one_line(error: BaseException) -> str:
    """The heart of a Hydra or OmegaConf error, with the nearest valid key or option."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error}\n{cause}"
    if found := re.search(r"Could not find '([\w/]+)/([\w.-]*)'", text):
        group, option = found.groups()
        known = options(group)
        guess = difflib.get_close_matches(option, known, 1)
        hint = f"; did you mean {group}={guess[0]}?" if guess else ""
        return f"unknown {group} {option!r}{hint} (there are: {', '.join(known)})"
    if found := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text):
        full = re.search(r"full_key: (\S+)", text)
        key = full.group(1) if full else found.group(1)
        return f"unknown key {key!r}{nearest(key)}"
    if found := re.search(r"Error parsing override '([^']*)'|LexerNoViableAltException: (.*)", text):
        what = found.group(1) or found.group(2)
        return f"cannot read {what!r}: write key=value or group=option, special characters between quotes"
    if found := re.search(r"Ambiguous value for argument '([^']*)'", text):
        key, _, value = found.group(1).partition("=")
        return f"{key}={value} is ambiguous: write {key}=[{value}] for a list, or add --multirun for one run each"
    first = str(cause).strip().splitlines()[0]
    key_line = re.search(r"full_key: (\S+)", text)
    return f"{key_line.group(1)}: {first}" if key_line and key_line.group(1) not in first else first


def nearest(key: str) -> str:
    known = known_keys()
    tail = key.rpartition(".")[2]
    guess = difflib.get_close_matches(key, known, 1) or [k for k in known if k.rpartition(".")[2] == tail]
    if not guess:
        last = {k.rpartition(".")[2]: k for k in reversed(known)}
        guess = [last[m] for m in difflib.get_close_matches(tail, last, 1, 0.7)]
    return f"; did you mean {guess[0]!r}?" if guess else f"; all keys: {command_line('train', '--help')}"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(FOLDER) / group).glob("*.yaml"))


def known_keys() -> list[str]:
    """What may stand before a "=": settings, sections and groups."""
    return [*all_keys(), *groups()]


def groups() -> list[str]:
    return [path.name for path in Path(FOLDER).iterdir() if path.is_dir() and not path.name.startswith("_")]
