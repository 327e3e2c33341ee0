"""Which checkpoints of a run stay.

In: their steps and states. Out: steps to keep. Must not know: files, how figures are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import RunConf


@dataclass(frozen=True, slots=True)
class Retention:
    """The newest `last` (0: all), every multiple of `every` (0: none), and the best by a figure of the validation.

    Example: last=2, every=100 of the steps 50, 100, 150, 200, 250 keeps 100, 200, 250.
    """

    last: int
    every: int = 0
    best: str | None = None  # a figure that states hold; None: none is the best
    lowest: bool = False  # less of it is better

    @classmethod
    def of(cls, conf: RunConf) -> Retention:
        best = None if conf.keep_best is None else conf.keep_best.value
        return cls(conf.keep_checkpoints, conf.keep_every, best, conf.keep_best_lowest)

    def keeps(self, steps: Sequence[int], state: Callable[[int], dict[str, Any]]) -> set[int]:
        """Of `steps`, oldest first. state: of the checkpoint of a step."""
        if not self.last:
            return {*steps}
        kept = {*steps[-self.last :]} | {step for step in steps if self.every and step % self.every == 0}
        figures = {} if self.best is None else {step: self._figure(state(step)) for step in steps}
        known = {step: figure for step, figure in figures.items() if figure is not None}
        if known:
            kept.add((min if self.lowest else max)(known, key=lambda step: known[step]))  # the first of equal ones
        return kept

    def _figure(self, state: dict[str, Any]) -> float | None:
        """None without a validation of that very model."""
        if state.get("validated") != state["step"]:
            return None
        figure: float | None = state.get("validation", {}).get(self.best)
        return figure
