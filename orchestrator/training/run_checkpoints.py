"""When a run's checkpoints are written, and what stands in them beside the learner.

In: the run's parts that have a state. Out: checkpoints (`orchestrator.training.checkpoint`). Must not know: what the
states mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from conf.schema import RunConf
from orchestrator.training.checkpoint import CheckpointStore, SavesBeside


class HasState(Protocol):
    def state(self) -> dict[str, Any]:
        """JSON-able; keys of its own."""


class RunCheckpoints:
    def __init__(self, store: CheckpointStore, run: RunConf, learner: SavesBeside, parts: Sequence[HasState]):
        self.store, self.run, self.learner, self.parts = store, run, learner, parts

    def mark_complete(self, step: int) -> None:
        """`step` is complete: the learner stays as it is until its next update, and an interruption saves this."""
        self.store.note(step, {key: value for part in self.parts for key, value in part.state().items()})

    def save_if_due(self, step: int) -> None:
        """What was marked last, at the run's end, every `run.save_every` steps, and when the last one was lost with the
        ranks that wrote it. Raises RunError when it, or what was begun earlier, cannot be written."""
        last = step == self.run.steps
        if last or self.store.lost or (self.run.save_every and step % self.run.save_every == 0):
            self.store.save_noted(self.learner, background=self.run.save_in_background and not last)

    def collect(self) -> None:
        """Make a checkpoint of what an earlier step began, if that is written. Raises RunError when it cannot be."""
        self.store.collect(whole=False)
