"""What a member of a sweep is worth, and how far it is, from its run folder.

In: a run folder, complete or still being written. Out: numbers. Must not know: sweeps, how runs are made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.choices import Objective
from orchestrator.base.record import readable
from orchestrator.report.damage import damage
from orchestrator.report.read import RECENT, JsonObject, merged, records
from orchestrator.tracking.summary import summarize_evaluation

DURING = {  # objective -> the figure of metrics.jsonl that stands for it while a member runs; more is better
    Objective.validation_reward: "validation/reward",
    Objective.validation_accuracy: "validation/accuracy",
    Objective.reward: "reward/mean",
    Objective.accuracy: "validation/accuracy",
    Objective.regret: "validation/reward",
}


@dataclass(frozen=True)
class Progress:
    """A member's figures so far."""

    steps: list[JsonObject]  # of metrics.jsonl, one per step, validations among them
    evaluation: JsonObject  # of evaluation.json; empty until the final evaluation
    damaged: tuple[str, ...] = ()  # what of these files is not as the run left it

    @property
    def step(self) -> int:
        """Training steps that are done."""
        return max((int(one["step"]) for one in self.steps if "seconds/step" in one), default=0)

    def last(self, key: str, count: int = 1) -> float | None:
        """The mean of the last `count` values of a figure; None where it has none."""
        known = [float(one[key]) for one in self.steps if one.get(key) is not None][-count:]
        return sum(known) / len(known) if known else None

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) wherever the figure has one."""
        return [(int(one["step"]), float(one[key])) for one in self.steps if one.get(key) is not None]

    def value(self, objective: Objective) -> float | None:
        """The objective; None where it has not been measured (yet)."""
        if objective in (Objective.accuracy, Objective.regret):
            return self.evaluated(objective.value)
        return self.last(DURING[objective], RECENT if objective is Objective.reward else 1)

    def evaluated(self, figure: str) -> float | None:
        """A figure of the final evaluation (`orchestrator.tracking.summary.summarize_evaluation`)."""
        if "final" not in (self.evaluation.get("models") or {}):
            return None
        found: Any = summarize_evaluation(self.evaluation, False)[figure]
        return None if found is None else float(found)


def progress(run_folder: Path) -> Progress:
    """What the folder holds; nothing where it does not exist yet."""
    metrics, evaluation = run_folder / "metrics.jsonl", run_folder / "evaluation.json"
    wrong = damage(run_folder, (metrics.name, evaluation.name))
    return Progress(merged(records(metrics)), readable(evaluation), (*wrong,))


def printed(log: Path, objective: Objective) -> float | None:
    """The objective as the run printed it at its end; its folder may be on another host."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    found = re.findall(rf"^objective: {objective.value}=(\S+)$", text, re.M)
    return float(found[-1]) if found else None
