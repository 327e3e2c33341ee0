"""Shares of time against counting seconds one by one, and against figures worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.utilization import Actor, by_kind, covered, figures, headline, union
from rollout.base.spans import Span

SECONDS = 40
intervals = st.lists(st.tuples(st.integers(0, SECONDS), st.integers(0, SECONDS)), max_size=12)
EPOCH = 1.8e9  # real spans are that late: nothing may be lost in the last bits


def seconds_of(some: list[tuple[int, int]]) -> set[int]:
    """The whole seconds in which at least one of them lies."""
    return {second for begin, end in some for second in range(begin, end)}


@given(intervals)
def test_union_keeps_the_covered_time_in_order_and_disjoint(some: list[tuple[int, int]]) -> None:
    merged = union(some)
    assert seconds_of([(int(a), int(b)) for a, b in merged]) == seconds_of(some)
    assert all(begin < end for begin, end in merged)
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    assert union(merged) == merged


@given(intervals, intervals, st.sampled_from([0.0, EPOCH]))
def test_covered_counts_each_second_of_a_window_once(
    some: list[tuple[int, int]], windows: list[tuple[int, int]], zero: float
) -> None:
    windows = [window for window in windows if window[0] <= window[1]]
    found = covered([(a + zero, b + zero) for a, b in some], [(a + zero, b + zero) for a, b in windows])
    assert found == pytest.approx([len(seconds_of(some) & seconds_of([window])) for window in windows], abs=1e-6)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, SECONDS), st.integers(0, SECONDS)), max_size=12))
def test_kinds_of_spans_are_counted_separately(some: list[tuple[str, int, int]]) -> None:
    windows = [(3.0, 9.0), (9.0, 20.0), (30.0, 31.0)]
    inside = seconds_of([(3, 20), (30, 31)])
    found = by_kind([Span(kind, a, b) for kind, a, b in some], windows)
    wanted = {kind: len(seconds_of([(a, b) for k, a, b in some if k == kind]) & inside) for kind, _, _ in some}
    assert found == pytest.approx(wanted, abs=1e-9)


def test_no_spans_cover_no_time() -> None:
    assert covered([], [(0.0, 1.0)]) == [0.0] and covered([(0.0, 1.0)], []) == [] and by_kind([], []) == {}


def test_figures_equal_those_worked_out_by_hand() -> None:
    """10 s of steps; workers sampled 9 and 5 of them, ranks learnt 6: the busiest paused for 1 s."""
    seconds = {
        Actor("rollout", 0): {"sampling": 9.0, "loading weights": 1.0},
        Actor("rollout", 1): {"sampling": 5.0, "waiting for weights": 2.0},
        Actor("reward", 0): {"grading": 0.5},
        Actor("learner", 0): {"learning": 6.0, "publishing": 3.9},
        Actor("learner", 1): {"learning": 6.0},
    }
    found = figures(10.0, seconds)
    assert found == pytest.approx(
        {"busy/rollout": 0.7, "busy/reward": 0.05, "busy/learner": 0.6, "pipeline/step_vs_max": 10 / 9}
    )
    assert headline(found) == (
        "rollout worked 70 %, learner 60 %, reward 5.0 % of the time; a step took 1.11 × max(sampling, learning)"
    )


def test_step_vs_max_tells_sequential_from_overlapping_work() -> None:
    """On-policy, a step takes the sum of its parts; with a batch ahead, the larger part."""
    rollout, learner = Actor("rollout"), Actor("learner")
    after = {rollout: [Span("sampling", 0, 6)], learner: [Span("learning", 6, 10)]}
    beside = {rollout: [Span("sampling", -5, 6)], learner: [Span("learning", 0, 4)]}
    found = [
        figures(wall, {actor: by_kind(spans, [(0.0, wall)]) for actor, spans in these.items()})["pipeline/step_vs_max"]
        for these, wall in ((after, 10.0), (beside, 6.0))
    ]
    assert found == pytest.approx([10 / 6, 1.0])


def test_without_actors_or_time_there_is_no_figure() -> None:
    for found in (figures(10.0, {}), figures(0.0, {})):
        assert set(found.values()) == {None} and headline(found) == ""
    idle = figures(0.0, {Actor("rollout"): {}, Actor("learner"): {"learning": 0.0}})
    assert idle["pipeline/step_vs_max"] is None and headline(idle) == ""
