"""Spans: what an actor records of its work."""

from __future__ import annotations

import threading
import time

import pytest

from rollout.base.spans import JOIN_S, KEPT, Span, Spans, spent


def test_adjacent_spans_of_a_kind_are_joined() -> None:
    spans = Spans()
    for begin, end in ((0.0, 1.0), (1.0, 2.0), (2.0 + JOIN_S / 2, 3.0), (3.0 + 2 * JOIN_S, 4.0)):
        spans.add("sampling", begin, end)
    spans.add("loading weights", 4.0, 5.0)
    spans.add("sampling", 5.0, 6.0)
    assert spans.take() == [
        Span("sampling", 0.0, 3.0),
        Span("sampling", 3.0 + 2 * JOIN_S, 4.0),
        Span("loading weights", 4.0, 5.0),
        Span("sampling", 5.0, 6.0),
    ]
    assert spans.take() == []


def test_a_span_in_progress_is_returned_up_to_now() -> None:
    """Without a gap and without an overlap between what one call gives and the next."""
    spans = Spans()
    begin = time.time()
    with spans.of("learning"):
        first = spans.take()
        middle = time.time()
        second = spans.take()
    rest = spans.take()
    end = time.time()
    pieces = [*first, *second, *rest]
    assert [piece.kind for piece in pieces] == ["learning"] * 3
    assert begin <= pieces[0].begin and first[0].end <= middle and rest[-1].end <= end
    assert pieces[0].end == pieces[1].begin and pieces[1].end == pieces[2].begin
    assert spans.take() == []


def test_a_failure_is_a_span_too() -> None:
    class Body:
        def __init__(self) -> None:
            self.spans = Spans()

        @spent("grading")
        def fail(self, text: str) -> None:
            """Its own name and docstring stay."""
            raise ValueError(text)

    body = Body()
    with pytest.raises(ValueError, match="so"):
        body.fail("so")
    assert [span.kind for span in body.spans.take()] == ["grading"]
    assert Body.fail.__name__ == "fail" and Body.fail.__doc__ == "Its own name and docstring stay."


def test_a_clock_that_was_set_back_makes_no_negative_span() -> None:
    spans = Spans()
    spans.add("sampling", 10.0, 3.0)
    assert spans.take() == [Span("sampling", 10.0, 10.0)]


def test_spans_that_are_not_taken_are_bounded() -> None:
    spans = Spans()
    for k in range(KEPT + 10):
        spans.add("sampling", float(k), k + 0.5)
    taken = spans.take()
    assert len(taken) == KEPT and taken[-1] == Span("sampling", KEPT + 9.0, KEPT + 9.5)


def test_concurrent_threads_lose_no_span() -> None:
    spans, taken, ended = Spans(), [], threading.Event()

    def work(number: int) -> None:
        for k in range(2000):
            spans.add(f"kind {number}", 2.0 * k, 2.0 * k + 1)

    def drain() -> None:
        while not ended.is_set():
            taken.extend(spans.take())

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    drainer = threading.Thread(target=drain)
    for thread in (drainer, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    ended.set()
    drainer.join()
    taken += spans.take()
    assert sorted((span.kind, span.begin) for span in taken) == sorted(
        (f"kind {number}", 2.0 * k) for number in range(4) for k in range(2000)
    )
