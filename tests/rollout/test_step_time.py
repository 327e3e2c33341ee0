"""The model of an engine step's time, and how many sequences may begin beside an older batch."""

from __future__ import annotations

import math

import pytest

from rollout.step_time import StepTime


def after(*steps: tuple[int, float]) -> StepTime:
    pace = StepTime()
    for sequences, seconds in steps:
        pace.note(sequences, seconds)
    return pace


@pytest.mark.parametrize("older", [1, 10, 100])
@pytest.mark.parametrize("slowdown", [1.0, 1.25, 3.0])
def test_a_linear_step_time_is_fitted(older: int, slowdown: float) -> None:
    """0.002 s and 0.0001 s for each sequence."""
    pace = after(*((n, 0.002 + 0.0001 * n) for n in (256, 250, 200, 120, 64, 30, 8, 1)))
    alone, most = 0.002 + 0.0001 * older, pace.beside(older, slowdown)
    assert 0.002 + 0.0001 * most == pytest.approx(slowdown * alone)
    assert most >= older - 1e-6


def test_there_is_no_bound_without_data_or_effect() -> None:
    assert StepTime().beside(5, 1.25) == math.inf
    assert after((64, 0.01), (64, 0.02)).beside(5, 1.25) == math.inf
    assert after(*((n, 0.01) for n in (1, 64, 256))).beside(5, 1.25) >= 256


def test_old_steps_are_forgotten() -> None:
    slow = [(n, 0.1 * n) for n in (1, 100)] * 50
    pace = after(*slow, *[(n, 0.01 + 0.0001 * n) for n in (1, 100)] * 1000)
    assert pace.beside(10, 2.0) == pytest.approx(10 + (0.01 + 0.001) / 0.0001, rel=0.01)
