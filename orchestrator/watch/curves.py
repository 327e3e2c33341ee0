"""Curves of a run that grows: every figure over the steps, averaged in bins that widen as the run gets longer.

In: records in the order of their steps. Out: points of any figure, in bounded memory however long the run is. Must not
know: files, which figures there are.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np

from orchestrator.report.panels import Point
from orchestrator.report.read import trains

MOST = 1024  # bins; when they are full, each two become one
LEFT_OUT = ("step", "time")  # figures that are no curves


class SteppedBack(Exception):
    """A training step was added before, or one behind it: a resumed run repeats steps."""


class Curves:
    """Bins of `width` records each. A record of the newest step (a validation's) is merged into that step's."""

    def __init__(self) -> None:
        self.width = 1
        self.count = 0  # of records, those of one step as one
        self._trained = False  # the newest step has its training record
        self._steps = array("q")  # the last step of each bin
        self._sums: dict[str, array[float]] = {}
        self._counts: dict[str, array[int]] = {}

    @property
    def last_step(self) -> int:
        return self._steps[-1] if self._steps else 0

    @property
    def keys(self) -> list[str]:
        return list(self._sums)

    def add(self, record: Mapping[str, Any]) -> None:
        """Raises SteppedBack for a training step that is not a new one."""
        step, training = record["step"], trains(record)
        if not self._steps or step > self._steps[-1]:
            self.count += 1
            if (self.count - 1) // self.width == MOST:
                self._halve()
            at = (self.count - 1) // self.width
            if at == len(self._steps):
                self._steps.append(step)
            else:
                self._steps[at] = step
            self._trained = training
        elif training and (step < self._steps[-1] or self._trained):
            raise SteppedBack
        else:
            at = bisect_left(self._steps, step)
            self._trained |= training
        sums, counts = self._sums, self._counts
        for key, value in record.items():
            if value.__class__ not in (float, int) or key in LEFT_OUT or not math.isfinite(value):
                continue
            column = sums.get(key)
            if column is None:
                column, counts[key] = sums.setdefault(key, array("d")), array("I")
            if len(column) <= at:
                column.extend([0.0] * (at + 1 - len(column)))
                counts[key].extend([0] * (at + 1 - len(counts[key])))
            column[at] += value
            counts[key][at] += 1

    def curve(self, key: str, most: int = MOST) -> list[Point]:
        """One figure over the steps, in at most `most` points: the mean of each bin, None where it has no value."""
        size = max(1, math.ceil(len(self._steps) / most))
        sums = self._summed(self._sums.get(key, array("d")), size)
        counts = self._summed(self._counts.get(key, array("I")), size)
        known = [s / n if n else None for s, n in zip(sums, counts, strict=True)]
        return list(zip(self.steps(most), known, strict=True))

    def steps(self, most: int = MOST) -> list[float]:
        """The x of `curve`: the last step of each of its points."""
        size, count = max(1, math.ceil(len(self._steps) / most)), len(self._steps)
        last = np.minimum(np.arange(size, count + size, size), count) - 1
        steps: list[float] = np.asarray(self._steps, dtype=float)[last].tolist()
        return steps

    def _summed(self, column: array[Any], size: int) -> list[float]:
        """Sums of `size` bins each; where a figure ended early, zeros."""
        values = np.zeros(math.ceil(len(self._steps) / size) * size)
        values[: len(column)] = column
        summed: list[float] = values.reshape(-1, size).sum(axis=1).tolist()
        return summed

    def _halve(self) -> None:
        self.width *= 2
        self._steps = self._steps[1::2]
        for key in self._sums:
            self._sums[key] = _paired(self._sums[key])
            self._counts[key] = _paired(self._counts[key])


def _paired(column: array[Any]) -> array[Any]:
    """The sums of each two; the last may be alone, where a figure ended early."""
    even, odd = column[::2], column[1::2]
    for at, value in enumerate(odd):
        even[at] += value
    return even
