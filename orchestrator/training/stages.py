"""A run is a sequence of stages, each of which can be done again: `train resume=` does what is missing.

In: a run folder, its configuration, the step of its newest checkpoint. Out: the stages that are missing. Must not know:
how a stage is done (`orchestrator.training.work`).

What a death leaves: of a warm-up and of training a checkpoint, from which they go on. The export and the report are
written beside and renamed, an evaluation's figures when all of them are there: these three begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from conf.schema import Config
from orchestrator.base.record import readable

MARKS = "stages"  # in provenance.json: stage -> steps of the model that it was done with; 0: it is to be done again

UNASKED = "evaluate, without questions"  # beside them: there was nothing to measure


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a run has come."""

    folder: Path
    conf: Config
    step: int | None  # of the newest checkpoint
    marks: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, conf: Config, step: int | None) -> Stand:
        marks = readable(folder / "provenance.json").get(MARKS)
        return cls(folder, conf, step, marks if isinstance(marks, dict) else {})

    def left(self, stage: str, name: str) -> bool:
        """Whether the stage has left that file, of the run's last step (earlier versions do not say of which)."""
        steps = self.conf.run.steps
        return (self.folder / name).is_file() and self.marks.get(stage, steps) == steps

    @property
    def recorded(self) -> bool:
        path = self.folder / "metrics.jsonl"
        return path.is_file() and path.stat().st_size > 0

    @property
    def evaluated(self) -> bool:
        """Or there was no question to ask."""
        if self.marks.get(UNASKED) == self.conf.run.steps:
            return True
        models = readable(self.folder / "evaluation.json").get("models")
        return isinstance(models, dict) and "final" in models and self.left("evaluate", "evaluation.json")


class Work(Protocol):
    """See `orchestrator.training.work`."""

    def warm_up(self) -> None: ...
    def learn(self) -> None: ...
    def export(self) -> None: ...
    def evaluate(self) -> None: ...
    def report(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    is_done: Callable[[Stand], bool]
    do: Callable[[Work], None]


STAGES = (
    Stage("warm-up", lambda run: run.step is not None, lambda work: work.warm_up()),
    Stage("train", lambda run: (run.step or 0) >= run.conf.run.steps, lambda work: work.learn()),
    Stage("export", lambda run: run.left("export", "model/tokenizer_config.json"), lambda work: work.export()),
    Stage("evaluate", lambda run: not run.conf.evaluate.final or run.evaluated, lambda work: work.evaluate()),
    Stage(
        "report",
        lambda run: not (run.conf.tracker.report and run.recorded) or run.left("report", "report.html"),
        lambda work: work.report(),
    ),
)


def missing(run: Stand) -> list[Stage]:
    """The first stage that is not done, and all behind it."""
    first = next((at for at, stage in enumerate(STAGES) if not stage.is_done(run)), len(STAGES))
    return [*STAGES[first:]]
