"""timeline.json and the busy shares of a run, with actors in threads, killed and resumed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import ActorDied, ActorUnreachable
from orchestrator.tracking.chrome_trace import Trace, read
from orchestrator.tracking.timeline import LAST_S, Timeline, clock_difference
from orchestrator.tracking.utilization import DRIVER, Actor
from rollout.base.spans import Span, Spans

ROOT = Path(__file__).parents[2]


class Body:
    """An actor's body: its spans and its clock, which may be wrong."""

    def __init__(self, ahead_s: float = 0.0):
        self.ahead_s = ahead_s
        self.spans = Spans()
        self.may_go_on = threading.Event()

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def take_spans(self) -> list[Span]:
        return self.spans.take()

    def work(self) -> None:
        self.may_go_on.wait(30)

    def did(self, kind: str, begin: float, end: float) -> None:
        self.spans.add(kind, begin + self.ahead_s, end + self.ahead_s)


class Answer:
    def __init__(self, future: Future[Any]):
        self.future = future

    def done(self) -> bool:
        return self.future.done()

    def wait(self) -> Any:
        return self.future.result(timeout=30)


class ActorThread:
    """An actor in a thread, which serves calls in order, as Ray's do."""

    def __init__(self, body: Body):
        self.body, self.thread = body, ThreadPoolExecutor(1)
        self.died: ActorDied | None = None

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Answer:
        if self.died is not None:
            failed: Future[Any] = Future()
            failed.set_exception(self.died)
            return Answer(failed)
        return Answer(self.thread.submit(getattr(self.body, method), *args))

    def served(self) -> None:
        """Wait until it has served all calls so far."""
        self.thread.submit(int).result(timeout=30)


class Crew:
    """One actor of each kind."""

    def __init__(self, ahead_s: float = 0.0):
        self.handles = {kind: ActorThread(Body(ahead_s)) for kind in ("rollout", "reward", "learner")}

    def timeline(self, path: Path) -> Timeline:
        return Timeline(path, {kind: [handle] for kind, handle in self.handles.items()})

    def body(self, kind: str) -> Body:
        return self.handles[kind].body

    def served(self) -> None:
        for handle in self.handles.values():
            handle.served()


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    for handle in crew.handles.values():
        handle.body.may_go_on.set()
        handle.thread.shutdown()


def a_step(crew: Crew, timeline: Timeline, step: int, seconds: float = 10.0) -> dict[str, Any]:
    """A step of `seconds` that ends now, so that it may lie over the one before it: 8 of ten seconds are sampled, half
    of them learnt, a tenth graded."""
    end = time.time()
    begin = end - seconds
    crew.body("rollout").did("sampling", begin, begin + 0.8 * seconds)
    crew.body("learner").did("learning", begin + 0.4 * seconds, begin + 0.9 * seconds)
    crew.body("learner").did("publishing", begin + 0.9 * seconds, end)
    crew.body("reward").did("grading", begin + 0.3 * seconds, begin + 0.4 * seconds)
    timeline.driver.add("waiting for trajectories", begin, begin + 0.3 * seconds)
    _, found = timeline.step(step, (begin, end))
    timeline.ask(end)
    crew.served()
    return found


def step_of(timeline: Timeline, step: int, seconds: float = 0.5) -> dict[str, Any]:
    """A step of `seconds` that ends now."""
    end = time.time()
    _, found = timeline.step(step, (end - seconds, end))
    timeline.ask(end)
    return found


SHARES = {"busy/rollout": 0.8, "busy/reward": 0.1, "busy/learner": 0.5, "pipeline/step_vs_max": 1.25}


def test_a_steps_record_has_the_shares_of_the_previous_step(crew: Crew, tmp_path: Path) -> None:
    timeline = crew.timeline(tmp_path / "timeline.json")
    assert a_step(crew, timeline, 1) == {}
    for step, wall in ((2, 10.0), (3, 1.0)):
        found = a_step(crew, timeline, step, seconds=1.0)
        assert {key: found[key] for key in SHARES} == pytest.approx(SHARES, abs=0.02)
        assert found["busy/rollout/worker/0"] == found["busy/rollout"]
        idle = {reason: found[f"rollout/idle_seconds/{reason}/worker/0"] for reason in ("weights", "asleep", "prompts")}
        assert idle == pytest.approx({"weights": 0, "asleep": 0, "prompts": 0.2 * wall}, abs=0.02)
        assert found["weight_sync/publish_seconds"] == pytest.approx(0.1 * wall, abs=0.02)
    assert timeline.close().startswith("rollout worked 8")
    found = timeline.summary()
    assert found["busy/rollout"] == pytest.approx(0.8, abs=0.03)  # steps lie one over the other in this test


def test_timeline_json_is_a_chrome_trace(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    timeline = crew.timeline(path)
    for step in (1, 2):
        a_step(crew, timeline, step)
    timeline.close()
    events = json.loads(path.read_text())
    assert {event["ph"] for event in events} == {"M", "X"}
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert sorted(names.values()) == ["driver", "learner rank 0", "reward actor 0", "rollout worker 0"]
    for event in events:
        assert event["pid"] in names and event["tid"] > 0
        if event["ph"] == "X":
            assert isinstance(event["ts"], int) and event["dur"] >= 0 and event["cat"] and event["name"]
    steps = [event for event in events if event["name"].startswith("step ")]
    assert [event["args"]["step"] for event in steps] == [1, 2] and steps[0]["dur"] == pytest.approx(1e7, abs=2)
    by_row: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        if event["ph"] == "X" and not event["name"].startswith("step "):
            by_row.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in by_row.values():  # of one row, none overlaps another: viewers would nest or drop them
        spans.sort()
        assert all(a[1] <= b[0] + 2 for a, b in pairwise(spans))


def test_a_written_trace_is_read_back(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    timeline = crew.timeline(path)
    a_step(crew, timeline, 1)
    before = read(path)  # while the run goes on
    assert before is not None and [step for step, _, _ in before.steps] == [1]
    a_step(crew, timeline, 2)
    timeline.close()
    found = read(path)
    assert found is not None and [step for step, _, _ in found.steps] == [1, 2]
    assert list(found.spans) == [DRIVER, Actor("rollout"), Actor("reward"), Actor("learner")]
    assert [span.kind for span in found.spans[Actor("learner")]].count("learning") == 2
    assert all(span.end >= span.begin for spans in found.spans.values() for span in spans)


def test_a_busy_actor_is_never_waited_for(crew: Crew, tmp_path: Path) -> None:
    """The learner serves nothing for three steps; when it does, the figures of all of them come at once."""
    timeline = crew.timeline(tmp_path / "timeline.json")
    crew.handles["learner"].call("work")
    learner = crew.body("learner")
    ends = []
    for step in (1, 2, 3):
        end = time.time()
        learner.did("learning", end - 0.5, end)
        assert step_of(timeline, step) == {}  # returns, although nobody answers
        ends.append(time.time())
    assert len(timeline._windows) == 3
    learner.may_go_on.set()
    crew.served()
    assert step_of(timeline, 4) != {}  # of step 1, when it was asked; then of the rest
    crew.served()
    assert step_of(timeline, 5) != {}
    assert [window[1] >= ends[-1] for window in timeline._windows] == [True]
    timeline.close()


def test_close_does_not_wait_for_an_actor_that_hangs(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    timeline = crew.timeline(path)
    a_step(crew, timeline, 1)
    crew.handles["learner"].call("work")
    begin = time.monotonic()
    timeline.close()
    assert LAST_S <= time.monotonic() - begin < LAST_S + 10
    assert json.loads(path.read_text())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ActorDied("its process is no more"), {"died: its process is no more"}),
        (ActorUnreachable("no route to its host"), set()),  # it may live, and answer again
    ],
)
def test_a_dead_actor_is_marked_and_the_others_are_still_recorded(
    crew: Crew, tmp_path: Path, error: ActorDied, said: set[str]
) -> None:
    path = tmp_path / "timeline.json"
    timeline = crew.timeline(path)
    crew.handles["learner"].died = error
    a_step(crew, timeline, 1)
    found = a_step(crew, timeline, 2)
    assert found["busy/rollout"] == pytest.approx(0.8, abs=0.02) and found["busy/learner"] == 0
    timeline.close()
    marks = [event for event in json.loads(path.read_text()) if event["ph"] == "i"]
    assert {event["name"] for event in marks} == said


def test_clocks_of_other_hosts_are_corrected(tmp_path: Path) -> None:
    for ahead in (0.0, -3600.0, 25.0):
        crew = Crew(ahead)
        measured, error = clock_difference(crew.handles["rollout"])
        assert abs(measured - ahead) <= error < 1
        timeline = crew.timeline(tmp_path / f"{ahead}.json")
        a_step(crew, timeline, 1)
        shares = a_step(crew, timeline, 2)
        assert {key: shares[key] for key in SHARES} == pytest.approx(SHARES, abs=0.02)
        timeline.close()
        crew.handles["rollout"].thread.shutdown()
    here = Crew()
    timeline = here.timeline(tmp_path / "here.json")
    here.body("rollout").did("sampling", 1000.25, 1001.5)
    step_of(timeline, 1)
    timeline.close()
    found = read(tmp_path / "here.json")
    assert found is not None and found.spans[Actor("rollout")] == [Span("sampling", 1000.25, 1001.5)]


def test_a_resumed_run_appends_to_the_same_file(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    for steps in ((1, 2), (3,)):
        timeline = crew.timeline(path)
        for step in steps:
            a_step(crew, timeline, step, seconds=0.001)
        timeline.close()
    json.loads(path.read_text())
    found = read(path)
    assert found is not None and [step for step, _, _ in found.steps] == [1, 2, 3]
    assert len([span for span in found.spans[Actor("reward")] if span.kind == "grading"]) == 3


KILLED = """
from pathlib import Path
from tests.orchestrator.test_timeline import Crew, a_step
crew = Crew()
timeline = crew.timeline(Path({path!r}))
step = 0
while True:
    step += 1
    a_step(crew, timeline, step, seconds=0.01)
"""


def test_a_killed_runs_trace_is_readable_and_appended_to(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(path=str(path))],
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        end = time.monotonic() + 120
        while not path.is_file() or path.stat().st_size < 20_000:
            assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    text = path.read_text()
    assert not text.rstrip().endswith("]")
    json.loads(text + "]")  # as viewers do
    before = read(path)
    assert before is not None and [step for step, _, _ in before.steps] == [*range(1, len(before.steps) + 1)]
    timeline = crew.timeline(path)
    a_step(crew, timeline, 10_000, seconds=0.001)
    timeline.close()
    json.loads(path.read_text())
    after = read(path)
    assert after is not None and [step for step, _, _ in after.steps] == [s for s, _, _ in before.steps] + [10_000]


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_a_trace_truncated_anywhere_is_appended_to(tmp_path: Path, cut: int) -> None:
    """Also after a power cut in the middle of a line: whole events stay, the torn one goes."""
    path = tmp_path / "timeline.json"
    actor = Actor("rollout")
    trace = Trace(path, {DRIVER: "", actor: ""})
    trace.write(
        [trace.step(1, (0.0, 1.0)), *trace.spans(actor, [Span("sampling", 0.0, 0.5), Span("sampling", 0.6, 1)])]
    )
    trace.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    before = read(path)
    again = Trace(path, {DRIVER: "", actor: ""})
    again.write([again.step(2, (2.0, 3.0))])
    again.close()
    json.loads(path.read_text())
    after = read(path)
    assert after is not None
    assert after.steps == [*(before.steps if before else []), (2, 2.0, 3.0)]
    kept = before.spans.get(actor, []) if before else []
    assert after.spans[actor] == kept


@pytest.mark.parametrize("content", ["", "\n", "nonsense", "\0" * 100_000, "[", "[\n", "[]", "{}"])
def test_a_file_that_is_not_a_trace_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "timeline.json"
    path.write_text(content)
    assert read(path) is None
    trace = Trace(path, {DRIVER: ""})
    trace.write([trace.step(1, (0.0, 1.0))])
    trace.close()
    assert [e for e in json.loads(path.read_text()) if isinstance(e, dict) and e.get("name") == "step 1"]


def test_overlapping_spans_get_separate_rows(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    trace = Trace(path, {DRIVER: ""})
    events = trace.spans(DRIVER, [Span("waiting", 0.0, 5.0), Span("packing", 1.0, 2.0), Span("waiting", 5.0, 6.0)])
    assert [event["tid"] for event in events] == [2, 3, 2]
    trace.close()


def test_without_actors_there_are_no_figures(tmp_path: Path) -> None:
    alone = Timeline(tmp_path / "timeline.json", {})
    step_of(alone, 1, 1.0)
    assert set(step_of(alone, 2, 1.0).values()) == {None} and alone.close() == "" and not alone._windows[1:]


def test_memory_does_not_grow_with_the_steps(crew: Crew, tmp_path: Path) -> None:
    timeline = crew.timeline(tmp_path / "timeline.json")
    for step in range(1, 60):
        a_step(crew, timeline, step, seconds=0.001)
    assert len(timeline._windows) <= 2
    assert all(len(row.spans) <= 12 for row in timeline._rows.values())
    timeline.close()
