"""Records steps whole (`run.record`), so that they can be run again (`orchestrator.replay.replay`).

In: finished steps; a learner that saves and exports itself. Out: folders
`recorded/step_000012` (`orchestrator.replay.step_format`), written beside and renamed, so that one that exists is
complete. Must not know: Ray, how a step is run again.

The learner's state is saved when the step before has ended, and so are the weights: every version that may sample for a
recorded step, given the run's staleness, is kept until the step shows which ones did.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from conf.schema import Config
from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.files import NOT_THE_DISK, reason, replace_folder
from orchestrator.base.observer import FinishedStep, Observer
from orchestrator.replay.step_format import (
    CONFIG,
    FOLDER,
    MODELS,
    STATE,
    RecordedStep,
    digest,
    step_name,
    surroundings,
    version_name,
    write,
)
from rollout.mode import ControlTokens


class Saves(Protocol):
    def save(self, folder: str) -> object: ...


class Recorder(Observer):
    """Records the steps of `run.record`; does nothing when that is empty."""

    def __init__(
        self,
        run_folder: Path,
        conf: Config,
        learner: Saves,
        export: Callable[[Path], None],
        control: ControlTokens,
        base: str,
    ):
        """export: writes the learner's current weights as a Hugging Face folder with tokenizer; base: see
        `RecordedStep`."""
        self.folder, self.conf, self.control = run_folder / FOLDER, conf, control
        self.learner, self.export = learner, export
        self.base = str(Path(base).absolute()) if Path(base).is_dir() else base
        self.steps = frozenset(conf.run.record)
        self._models = self.folder / ".models"

    def begin(self, step: int) -> None:
        """Before the first step of this process, with the weights of `step` finished steps pushed or about to be."""
        if not self.steps:
            return
        shutil.rmtree(self._models, ignore_errors=True)
        for partial in self.folder.glob(".step_*.partial"):  # of a run that was stopped
            shutil.rmtree(partial, ignore_errors=True)
        self._keep(step)

    def step(self, done: FinishedStep) -> None:
        """Write the step if it was asked for, and keep what a step to come begins with.

        Raises RunError when it cannot be written (disk full); earlier records are then as they were.
        """
        if not self.steps:
            return
        if done.number in self.steps:
            with self._writing(done.number) as partial:
                self._write(done, partial)
        self._keep(done.number)

    def _keep(self, done: int) -> None:
        """With `done` finished steps: the weights, if they may sample for a recorded step, and the learner's state."""
        ahead = self.conf.run.max_staleness
        wanted = [step for step in self.steps if step > done]
        oldest = min(wanted, default=done) - 1 - ahead
        if wanted and oldest <= done:
            with self._writing(min(wanted)):
                for model in self._models.glob("version_*"):
                    if int(model.name.partition("_")[2]) < oldest:
                        shutil.rmtree(model)
                self._models.mkdir(parents=True, exist_ok=True)
                self.export(self._models / version_name(done))
        elif not wanted:
            shutil.rmtree(self._models, ignore_errors=True)
        if done + 1 in self.steps:
            with self._writing(done + 1) as partial:
                shutil.rmtree(partial, ignore_errors=True)
                (partial / STATE).mkdir(parents=True)
                self.learner.save(str(partial / STATE))

    def _write(self, done: FinishedStep, partial: Path) -> None:
        from conf.compose import to_yaml

        (partial / CONFIG).write_text(to_yaml(self.conf))
        batch, step = done.batch, done.number
        every = {(t.prompt.uid, t.sibling): t for t in batch.trajectories}  # and those of dynamic sampling's rounds
        every |= {(t.prompt.uid, t.sibling): t for group in batch.judged for t in group.trajectories}
        learnt = {group.prompt.uid for group in batch.learnt}
        for version in sorted({int(v) for t in every.values() for v in np.unique(t.versions)}):
            model = self._models / version_name(version)
            if model.is_dir():
                shutil.copytree(model, partial / MODELS / model.name, copy_function=_link)
        weights = sorted(Path(self.base).glob("*.safetensors")) if Path(self.base).is_dir() else []
        recorded = RecordedStep(
            step=step,
            asked_for=step - 1,
            seed=self.conf.run.seed,
            control=self.control,
            base=self.base,
            trajectories=tuple(every.values()),
            groups=tuple(batch.judged),
            learnt=tuple(group.prompt.uid in learnt for group in batch.judged),
            report=done.report,
            metrics=done.figures,
            surroundings=surroundings(),
            base_files={path.name: digest(path) for path in weights},
        )
        write(partial, recorded)
        replace_folder(partial, self.folder / step_name(step))

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[Path]:
        """The folder beside; what goes wrong with the disk becomes one line."""
        partial = self.folder / f".{step_name(step)}.partial"
        try:
            yield partial
        except (OSError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(self._models, ignore_errors=True)
            if isinstance(error, NOT_THE_DISK):
                raise
            again = command_line("train", f"resume={self.folder.parent}")
            raise RunError(
                f"cannot record step {step} in {self.folder} ({reason(error, self.folder.parent)}): free some space, "
                f"or give run.record=[] in place of run.record={sorted(self.steps)}, then go on: {again}"
            ) from error


def _link(source: str, target: str) -> None:
    """A second name of the same file; where the disk has no such thing, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
