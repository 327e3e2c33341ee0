"""Hydra's launchers of Thinkless: the members of a multirun are composed and checked, all of them, before one starts.

In: overrides of each member, from any of Hydra's sweepers. Out: `Member`s, given to a `Sweep`; what they are worth goes
back to the sweeper. Must not know: how members are run.

`hydra/launcher=basic` (Hydra's name, our launcher) runs members on this machine, `hydra/launcher=ray_jobs` as Ray jobs.
Another launcher of Hydra's calls the task itself, which then runs its members as if each were a single run.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from conf.check import check
from conf.choices import Objective
from conf.chosen import objective
from conf.errors import BadConfig, brief
from conf.masking import mask
from conf.overrides import quoted
from conf.schema import Config
from conf.settings import settings

PLUGINS = "hydra_plugins.thinkless"  # this module's second name: Hydra takes plugins of that package alone
NO_PART = ("run.root", "run.name", "sweep.", "hydra.", "hydra/", "tracker.")  # of what makes a member what it is
OF_THE_SWEEP = ("run.root", "run.name", "sweep.")  # members get their own
FIXED = (*OF_THE_SWEEP, "tracker.")  # one value for all members


@dataclass
class BasicConf:
    """hydra/launcher=basic: members on this machine, each in a process of its own."""

    _target_: str = f"{PLUGINS}.BasicLauncher"
    max_parallel: int = 1  # members at a time
    poll_s: float = 1.0  # seconds between two looks at them


@dataclass
class RayJobsConf:
    """hydra/launcher=ray_jobs: each member a Ray job."""

    _target_: str = f"{PLUGINS}.RayJobsLauncher"
    address: str | None = None  # of the head's dashboard, as `thinkless submit --address`; null: as it chooses
    max_parallel: int = 2  # members at a time
    num_cpus: float = 0.0  # of a member's driver, for Ray's placement; may be a fraction
    poll_s: float = 2.0  # seconds between two looks at them


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    overrides: tuple[str, ...]  # as on the command line, without those of the sweep as a whole
    conf: Config  # composed and checked

    @property
    def key(self) -> str:
        """Names the member by its overrides, in whatever order and notation they were given."""
        return digest(self.overrides)


@dataclass(frozen=True)
class Launching:
    """The launcher's settings."""

    kind: str  # "basic" or "ray_jobs"
    max_parallel: int
    poll_s: float
    address: str | None = None
    num_cpus: float = 0.0


class Sweep(Protocol):
    """What runs the members: `orchestrator.sweeps.sweep.Sweep`."""

    def opened(self, base: Config, name: str, jobs: bool) -> AbstractContextManager[Path]:
        """The sweep's folder while the sweep runs. base: the settings that all members share. name: unless
        base.sweep.name or base.run.name says otherwise. jobs: members are Ray jobs."""

    def run(self, members: list[Member], launching: Launching) -> list[float | None]:
        """The objective of each; None for one that failed."""


def digest(overrides: Iterable[str]) -> str:
    """Twelve hexadecimal digits of what overrides set. Example: those of ["a.b=1e-3", "c=x"] and ["c=x", "a.b=0.001"]
    are the same."""
    parser = OverridesParser.create()
    parts = sorted(_part(parser.parse_override(one)) for one in overrides if not one.lstrip("+~").startswith(NO_PART))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _part(override: Override) -> str:
    value = override.input_line if override.is_sweep_override() else override.value()
    return f"{override.type} {override.get_key_element()}={json.dumps(value, default=str)}"


def objective_of(members: Sequence[Member]) -> Objective:
    """What the members are compared by. Raises BadConfig where they do not have it."""
    found = {objective(member.conf) for member in members}
    if len(found) > 1:
        names = " and ".join(sorted(one.value for one in found))
        raise BadConfig(f"members would be compared by {names}: give sweep.objective=reward, or the like, for all")
    (chosen,) = found
    evaluates = [member.conf.evaluate for member in members]
    if chosen in (Objective.validation_reward, Objective.validation_accuracy) and not all(e.every for e in evaluates):
        raise BadConfig(f"sweep.objective={chosen.value} needs validations: evaluate.every must be above 0")
    if chosen in (Objective.accuracy, Objective.regret) and not all(e.final for e in evaluates):
        raise BadConfig(f"sweep.objective={chosen.value} needs the final evaluation: evaluate.final must be true")
    return chosen


def sweeper_overrides(base: DictConfig, conf: Config, overrides: Sequence[str], folder: Path) -> list[str]:
    """Overrides of Hydra's own for a sweep in `folder`: its files are there, and Optuna optimizes the objective in its
    direction, proposes the same members when it is asked again, and does not give up when one fails.

    Raises BadConfig where it was told otherwise, or for the end of an interval that is out of range.
    """
    found = [f"hydra.sweep.dir={quoted(str(folder))}", "hydra.mode=MULTIRUN"]
    sweeper = base.hydra.sweeper
    given = {one.partition("=")[0].lstrip("+") for one in overrides}
    if "direction" in sweeper:
        direction = "maximize" if objective(conf).maximized else "minimize"
        told = str(getattr(sweeper.direction, "name", sweeper.direction))
        if "hydra.sweeper.direction" in given and told != direction:
            raise BadConfig(f"hydra.sweeper.direction={told}: {objective(conf).value} is to be {direction}d")
        found.append(f"hydra.sweeper.direction={direction}")
    if "max_failure_rate" in sweeper and "hydra.sweeper.max_failure_rate" not in given:
        found.append("hydra.sweeper.max_failure_rate=1.0")
    if "seed" in (sweeper.get("sampler") or {}) and sweeper.sampler.seed is None:
        found.append("hydra.sweeper.sampler.seed=0")
    _refuse_ends(overrides, sweeper)
    return found


def _refuse_ends(overrides: Sequence[str], sweeper: DictConfig) -> None:
    """BadConfig for an interval that leaves its setting's range: its members are not known before they are tried."""
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    parser = OverridesParser.create()
    for override in map(parser.parse_override, [*params, *overrides]):
        value, setting = override.value(), settings().get(override.key_or_group)
        if isinstance(value, IntervalSweep) and setting is not None and setting.range is not None:
            for end in (value.start, value.end):
                whole = setting.kind is int and float(end or 0.0).is_integer()
                setting.refuse_outside(int(end or 0.0) if whole else end)


def refuse_swept(overrides: Sequence[str]) -> None:
    """BadConfig for several values of what belongs to the sweep as a whole."""
    parser = OverridesParser.create()
    for one in overrides:
        if one.lstrip("+~").startswith(FIXED) and parser.parse_override(one).is_sweep_override():
            key = one.partition("=")[0]
            raise BadConfig(f"{key} belongs to the sweep as a whole: give it one value, got {one.partition('=')[2]}")


def settings_of(config: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own section."""
    found = copy.copy(config)
    with open_dict(found):
        del found["hydra"]
    return found


class Task:
    """What Hydra calls a task function: our launchers take `sweep` from it, others call it."""

    def __init__(
        self,
        command: str,
        single: Callable[[DictConfig], None],
        typed: Callable[[Any], Config],
        sweep: Sweep,
        failed: list[BaseException],
    ):
        """failed: takes what `sweep.run` raises, which is no mistake in the configuration, whatever its type."""
        self.command, self.single, self.typed, self.sweep, self.failed = command, single, typed, sweep, failed

    def __call__(self, config: DictConfig) -> None:
        self.single(config)


class _Launcher(Launcher):
    """Composes and checks all members of a batch, then has them run."""

    kind = ""

    def __init__(self, **given: Any):
        try:
            self.launching = Launching(self.kind, **given)
        except TypeError as error:
            raise BadConfig(f"hydra/launcher={self.kind}: {error}") from error
        if self.launching.max_parallel < 1 or not 0.05 <= self.launching.poll_s <= 3600 or self.launching.num_cpus < 0:
            raise BadConfig(
                f"hydra/launcher={self.kind}: max_parallel must be at least 1, poll_s in [0.05, 3600], num_cpus not "
                f"negative; got {given}"
            )

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        self.loader, self.task, self.config = hydra_context.config_loader, task_function, config
        logging.getLogger("optuna").setLevel(logging.WARNING)  # it says in colour, in files too, that there is a study

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if not isinstance(self.task, Task):
            raise BadConfig(f"hydra/launcher={self.kind} runs members of thinkless train alone")
        _mask_file(Path(self.config.hydra.sweep.dir) / "multirun.yaml")
        members = [self._member(list(overrides)) for overrides in job_overrides]
        objective_of(members)
        try:
            values = self.task.sweep.run(members, self.launching)
        except BaseException as error:
            self.task.failed.append(error)
            raise
        grid = str(self.config.hydra.sweeper._target_).endswith("BasicSweeper")  # it ends at the first that failed
        returned = []
        for overrides, value in zip(job_overrides, values, strict=True):
            one = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
            one.return_value = value
            if value is None and not grid:
                one.status, one.return_value = JobStatus.FAILED, RuntimeError("the member failed")
            returned.append(one)
        return returned

    def _member(self, overrides: list[str]) -> Member:
        config = self.loader.load_sweep_config(self.config, overrides)
        own = [one for one in overrides if not one.lstrip("+~").startswith(OF_THE_SWEEP)]
        try:
            conf = self.task.typed(settings_of(config))
            check(conf, self.task.command)
        except BadConfig as error:
            raise BadConfig(brief(f"{error} (member {' '.join(own)})")) from error
        return Member(tuple(own), conf)


def _mask_file(path: Path) -> None:
    """Hydra's grid sweeper has just written it, with all overrides as they were given."""
    if path.is_file():
        path.write_text(mask(path.read_text()))


class BasicLauncher(_Launcher):
    kind = "basic"


class RayJobsLauncher(_Launcher):
    kind = "ray_jobs"


def register() -> None:
    """Make the launchers known to Hydra."""
    store, plugins = ConfigStore.instance(), Plugins.instance()  # which reads Hydra's own first
    package = PLUGINS.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:  # no other plugin is installed
        sys.modules[package] = ModuleType(package)
    sys.modules[PLUGINS] = sys.modules[__name__]
    for launcher, conf in ((BasicLauncher, BasicConf), (RayJobsLauncher, RayJobsConf)):
        launcher.__module__ = PLUGINS
        plugins.register(launcher)
        store.store(group="hydra/launcher", name=launcher.kind, node=OmegaConf.structured(conf), provider="thinkless")
