"""Predicts how long an engine step takes, and how many sequences may run beside an older batch.

In: the time of every step. Out: a number of sequences. Must not know: batches, engines.

Where a step's time grows with the number of sequences (a CPU), a newer batch that fills the engine slows the older
one's last responses, which the learner waits for; where it does not (a GPU that reads its weights once per step),
running beside costs nothing. So the time is measured and fitted by a line: seconds = a + b * sequences.
"""

from __future__ import annotations

DECAY = 0.99  # of the running sums, per step


class StepTime:
    """A least-squares line through (sequences, seconds), older steps counting less."""

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def note(self, sequences: int, seconds: float) -> None:
        """A step in which none began (their prompts would be in its time)."""
        for name, value in (("_weight", 1.0), ("_n", sequences), ("_t", seconds)):
            setattr(self, name, DECAY * getattr(self, name) + value)
        self._nn = DECAY * self._nn + sequences * sequences
        self._nt = DECAY * self._nt + sequences * seconds

    def beside(self, older: int, slowdown: float) -> float:
        """Sequences that may run, `older` ones of an older batch included, so that a step takes at most `slowdown`
        times as long as with those alone. Infinite where nothing is known, or the number makes no difference."""
        spread = self._weight * self._nn - self._n * self._n
        if spread <= 1e-9 * self._nn * self._weight:
            return float("inf")
        slope = (self._weight * self._nt - self._n * self._t) / spread
        start = max((self._t - slope * self._n) / self._weight, 0.0)
        if slope <= 0:
            return float("inf")
        return (slowdown * (start + slope * older) - start) / slope
