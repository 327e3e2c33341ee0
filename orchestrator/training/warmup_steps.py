"""The steps of a warm-up, with checkpoints and evaluations between them.

In: batches, a learner. Out: a learner that has done all steps, or as many as are saved when a signal ends it; a log.
Must not know: how parts are started, what becomes of the model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import LearnerConf
from learner.data.sft import Curriculum
from learner.learner import Learner
from learner.schedule import learning_rate
from orchestrator.base.files import append
from orchestrator.base.interrupt import Interrupted, requested
from orchestrator.base.line import written
from orchestrator.tracking.console import progress
from orchestrator.tracking.line_files import drop_after
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.warmup_evaluation import WarmupEvaluator

AHEAD = 3  # steps under way before the oldest is waited for: the driver packs while the ranks compute


class WarmupLog:
    """warmup.jsonl: every tenth step, and those at which there is an evaluation."""

    def __init__(
        self,
        path: Path,
        steps: int,
        done: int,
        seconds: float,
        conf: LearnerConf,
        note: Callable[[str], None] = lambda text: None,
    ):
        """done, seconds: of an earlier process, whose lines are kept; note: prints a line."""
        self.path, self.steps, self.conf = path, steps, conf
        self._begin = time.monotonic() - seconds
        drop_after(path, done, note)

    def seconds(self) -> float:
        return round(time.monotonic() - self._begin, 2)

    def take(self, step: int, pending: Any, bar: progress, also: bool = False) -> None:
        """Wait for a step's answer. also: it is written, whichever it is. Raises FloatingPointError when its loss is
        not a number."""
        loss, tokens = pending.wait()
        if loss != loss:
            raise FloatingPointError(f"the warm-up's loss is not a number at step {step}: lower warmup.lr")
        bar.advance(1, loss=loss)
        if also or step % 10 == 0 or step == self.steps:
            rate = learning_rate(self.conf, step - 1, self.steps)
            line = {"step": step, "loss": loss, "lr": rate, "tokens": tokens, "seconds": self.seconds()}
            append(self.path, written(line))


def learn(
    curriculum: Curriculum,
    learner: Learner,
    store: CheckpointStore,
    save_every_s: float,
    layout: dict[str, Any],
    log: WarmupLog,
    bar: progress,
    evaluator: WarmupEvaluator | None,
    done: int,
) -> bool:
    """The steps after `done`. False, or Interrupted, when a signal came first: the finished ones are saved then.

    layout: what is written beside a checkpoint, besides what it has done so far.
    """
    running: deque[tuple[int, Any]] = deque()  # steps and the futures of their losses
    step, saved, steps = done, time.monotonic(), curriculum.steps

    def save() -> None:
        store.save(step, learner, {"too_long": curriculum.too_long, "seconds": log.seconds(), **layout})

    def evaluate() -> None:
        assert evaluator is not None
        try:
            evaluator.evaluate(step)
        except Interrupted:
            save()
            raise

    if evaluator is not None and 0 < done < steps and evaluator.due(done):  # an earlier process did not finish it
        evaluate()
    for step, batch in enumerate(curriculum.batches(done), start=done + 1):
        running.append((step, learner.fine_tune(batch)))
        due = requested() or time.monotonic() - saved > save_every_s
        evaluated = evaluator is not None and evaluator.due(step)
        while len(running) >= AHEAD or (running and (due or evaluated or step == steps)):
            oldest, loss = running.popleft()
            log.take(oldest, loss, bar, also=evaluated and oldest == step)
        if due and step < steps:
            save()
            saved = time.monotonic()
            if requested():
                return False
        if evaluated and step < steps:
            evaluate()
    if evaluator is not None and evaluator.due(steps):
        if requested():
            save()
            return False
        evaluate()
    return True
