"""Callbacks of the training loop (like TRL's TrainerCallback).

In: called by the loop at named moments. Out: whatever each observer writes; one that raises ends the run. Must not
know: what observers do, what a step does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from learner.metrics.report import StepReport
from reward.group import JudgedBatch

Record = dict[str, float | int | None]


@dataclass(frozen=True, slots=True, eq=False)
class FinishedStep:
    """What is known of a step once its update is made and its weights are on their way."""

    number: int  # finished steps, this one included
    batch: JudgedBatch
    report: StepReport | None  # None: there was nothing to learn
    figures: Record  # its line in metrics.jsonl
    values: Mapping[str, list[float]] = field(default_factory=dict)  # of its histograms


class Observer:
    """All hooks default to no-ops."""

    def begin(self, step: int) -> None:
        """Before the first step of this process, with the weights of `step` finished steps in the samplers."""

    def step(self, done: FinishedStep) -> None:
        """A step is done. Ctrl-C is deferred while this runs: be quick, and do not wait for samplers."""

    def after_step(self, step: int) -> None:
        """After `step` steps, before the loop waits for the next batch. May sample and wait."""
