"""What looks at a run without being part of the algorithm: the moments of a run that an observer may have.

In: the loop's moments. Out: each observer's own. Must not know: what observers do, what a step does.
"""

from __future__ import annotations

from dataclasses import dataclass

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


class Observer:
    """Does nothing at any moment; subclasses override those they need. One that raises ends the run."""

    def begin(self, step: int) -> None:
        """Before the first step of this process, with the weights of `step` finished steps in the samplers."""

    def step(self, done: FinishedStep) -> None:
        """A step is done. The first signal waits for this, so it must not take long or wait for samplers."""

    def between(self, step: int) -> None:
        """After `step` steps, before the next batch is waited for. May sample and wait."""
