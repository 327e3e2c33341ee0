"""Median stopping: members of a sweep that do worse than most others did at the same step end early.

In: each member's curve of the figure that stands for the objective. Out: which to stop. Must not know: how they run.

The rule is that of Golovin et al., "Google Vizier" (KDD 2017), section 3.2.2, on the values themselves rather than on
their running means: validations are few. It works with every sweeper, since Hydra's sweepers (Optuna's too) never see a
value before a member has ended; a member that is stopped reports the value that it had.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Curve = Sequence[tuple[int, float]]  # (step, value), by step; more is better


def hopeless(curves: Mapping[str, Curve], running: Sequence[str], after: int, members: int) -> dict[str, str]:
    """Members to stop, with the reason in words. after: steps that each may do; members: others to compare with.

    Example: at step 20 three others had 0.5, 0.6 and 0.9, and this one's best value up to there is 0.4: it is stopped.
    """
    found = {}
    for key in running:
        if not (curve := curves[key]) or curve[-1][0] < max(after, 1):
            continue
        step = curve[-1][0]
        own = max(value for _, value in curve)
        others = [value for other, one in curves.items() if other != key for at, value in one if at == step]
        if len(others) >= members and own < (middle := statistics.median(others)):
            found[key] = f"at step {step} its best value is {own:.4g}, the median of {len(others)} others {middle:.4g}"
    return found
