"""Trackers with their own libraries, writing to a folder; and those that fail, which a run survives."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conf.schema import TrackerConf
from orchestrator.base.errors import ActorDied, RunError
from orchestrator.base.interrupt import EndedAtOnce, Interrupted
from orchestrator.tracking import sinks
from orchestrator.tracking.chrome_trace import read
from orchestrator.tracking.console import Console
from orchestrator.tracking.sinks.background import Background
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.workers import Workers
from rollout.base.errors import BadInput
from rollout.base.spans import Pulse
from rollout.usage import WorkerStatus
from tests.helpers.runs import read_lines

RECORD = {"seconds/step": 1.0, "reward/mean": 0.25, "answers/think": 3, "think_rate/level/2": 0.5, "entropy": None}


def asked(workers: Workers) -> dict[str, Any]:
    """A step: its figures, and the question for the next one's."""
    found = workers.step()
    workers.ask()
    return found


class Scripted:
    """A worker's handle with answers that are there at once."""

    def __init__(self, answers: list[Any], refuses: bool = False, method: str = "take_status"):
        self.answers, self.refuses, self.method = answers, refuses, method

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Scripted:
        assert method == self.method
        if self.refuses:
            raise self.answers[0]
        return self

    def done(self) -> bool:
        return True

    def wait(self) -> Any:
        if isinstance(answer := self.answers.pop(0), Exception):
            raise answer
        return answer


VALUES = {"answer_tokens/think": [3.0, 8.0, 9.0], "answer_tokens/short": []}


def tracked(folder: Path, steps: int = 3, error: BaseException | None = None, **conf: Any) -> list[dict[str, Any]]:
    """What metrics.jsonl has after a run of a few lines with these trackers, which `error` ended."""
    folder.mkdir(exist_ok=True)
    settings = TrackerConf(progress=False, gauges=False, **conf)
    tracker = Tracker(folder, settings, steps, 0, lambda ids: "", 0, {"run": {"seed": 1}})
    for step in range(1, steps + 1):
        tracker.log(step, RECORD | {"reward/mean": 0.25 * step}, VALUES)
    tracker.close(error)
    return read_lines(folder / "metrics.jsonl")


def test_tensorboard_reads_scalars_and_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked(tmp_path / "run", tensorboard=True)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert set(found.Tags()["scalars"]) >= {"step", "reward/mean", "answers/think", "think_rate/level/2",
                                            "tracking/failures/tensorboard"}  # fmt: skip
    histogram = found.Histograms("answer_tokens/think")[0].histogram_value
    assert (histogram.num, histogram.min, histogram.max, histogram.sum) == (3, 3, 9, 20)
    assert dict(zip(histogram.bucket_limit, histogram.bucket, strict=True))[8.0] == 1  # 8 is within its bound


def test_a_file_that_is_opened_again_hides_nothing_of_this_session(tmp_path: Path) -> None:
    """Only what an earlier session wrote beyond the step that this one begins at, as a resumed run does it again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from orchestrator.tracking.sinks.tensorboard import TensorBoard

    for begins, steps in ((0, (1, 2, 3)), (None, (6, 7)), (6, (7, 8))):
        board = TensorBoard(tmp_path, begins)
        for step in steps:
            board.write(step, {"reward/mean": 0.5}, {})
        board.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [one.step for one in found.Scalars("reward/mean")] == [1, 2, 3, 6, 7, 8]


def test_weights_and_biases_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    lines = tracked(tmp_path / "run", wandb="thinkless-test")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"think_rate/level/2" in written.read_bytes()
    assert [line["tracking/failures/wandb"] for line in lines] == [0, 0, 0] and "failed" not in capsys.readouterr().err
    services = [one.cmdline() for one in psutil.Process().children() if "wandb" in one.name()]
    assert not services  # as long as W&B's lives, the file may hold its header alone, whatever `finish` has returned


def test_mlflow_has_figures_and_how_a_run_ended(tmp_path: Path) -> None:
    """In its store. A failed run that is resumed and ends well has finished after all."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    ends = {
        "failed": RunError("a sampler died"),
        "stopped": Interrupted(),
        "at once": EndedAtOnce(),
        "again": OSError(),
    }
    for name, error in ends.items():
        tracked(tmp_path / name, steps=1, error=error, mlflow=store)
    for name in ("run", "again"):
        tracked(tmp_path / name, mlflow=store)
    with sqlite3.connect(tmp_path / "mlflow.db") as file:
        status = dict(file.execute("select name, status from runs").fetchall())
        rows = file.execute(
            "select step, value from metrics join runs using (run_uuid) where key = 'reward/mean' and name = 'run' "
            "order by step"
        ).fetchall()
    assert rows == [(1, 0.25), (2, 0.5), (3, 0.75)]
    finished = {"run": "FINISHED", "again": "FINISHED"}
    assert status == {"failed": "FAILED", "stopped": "KILLED", "at once": "KILLED", **finished}


def test_a_tracker_that_cannot_begin_is_said_once_and_counted(tmp_path: Path, capsys: Any) -> None:
    """Its folder is a file: no event file can be made."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tensorboard").write_text("in the way")
    settings = TrackerConf(progress=False, gauges=False, tensorboard=True)
    tracker = Tracker(folder, settings, 3, 0, lambda ids: "", 0)
    for step in (1, 2, 3):
        tracker.log(step, RECORD, VALUES)
    tracker.close()
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("tracker.tensorboard failed (FileExistsError") == 1 and "training goes on" in said


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: a write is done as far as there, as on a full disk."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_is_full_ends_a_tracker_and_no_run(tmp_path: Path) -> None:
    (one,) = sinks.trackers(TrackerConf(gauges=False, tensorboard=True), tmp_path, 0, {})
    with files_up_to(256):
        for step in range(1, 20):
            one.write(step, RECORD, VALUES)
        one.close()
    failures, said = one.failures.news()
    assert failures == 1 and said is not None and "OSError" in said and "File too large" in said
    assert one.failures.news() == (0, None)


def test_a_disk_that_is_full_for_a_while_leaves_whole_lines(tmp_path: Path, capsys: Any) -> None:
    """Steps 3 and 4 are lost, said once and counted; no line is torn, and what comes after is written again."""
    timeline = Timeline(tmp_path / "timeline.json", {})
    tracker = Tracker(tmp_path, TrackerConf(progress=False, gauges=False), 6, 0, lambda ids: "", 0,
                      others=[timeline.failures])  # fmt: skip

    def step(number: int) -> None:
        tracker.log(number, RECORD)
        tracker.files.append("samples.jsonl", json.dumps({"step": number, "text": "x" * 300}) + "\n")
        timeline.step(number, (float(number), number + 1.0))

    for number in (1, 2):
        step(number)
    full = min((tmp_path / name).stat().st_size for name in ("metrics.jsonl", "samples.jsonl", "timeline.json"))
    with files_up_to(full + 20):
        for number in (3, 4):
            step(number)
    for number in (5, 6):
        step(number)
    timeline.close()
    tracker.close()
    lines = read_lines(tmp_path / "metrics.jsonl")
    samples = read_lines(tmp_path / "samples.jsonl")
    assert [line["step"] for line in lines] == [line["step"] for line in samples] == [1, 2, 5, 6]
    assert [line["tracking/failures/files"] for line in lines] == [0, 0, 4, 0]
    found = read(tmp_path / "timeline.json")
    assert found is not None and [number for number, *_ in found.steps] == [1, 2, 5, 6]
    assert json.loads((tmp_path / "timeline.json").read_text())
    assert [line["tracking/failures/timeline"] for line in lines] == [0, 0, 2, 0]
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl could not be written ([Errno 27] File too large; ") == 1
    assert said.count("timeline.json could not be written (") == said.count("samples.jsonl could not") + 1 == 1


def test_a_console_on_a_full_disk_ends_no_run() -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:  # its close fails, too
        console = Console(3, progress=False, file=full)
        for step in (1, 2):
            console.step({"step": step, "seconds/step": 1.0})
        console.close()
    failures, said = console.failures.news()
    assert failures == 2 and said is not None and "No space left on device" in said


def test_calls_that_fail_are_counted_and_end_no_run() -> None:
    """A status that cannot be given, a call that cannot be made, a worker that is dead; the last one still answers."""
    status = WorkerStatus(1.0, 3.0, 0.0, 0.25, 0.5, 2, 1, 1000, 0.5)
    errors = [PermissionError("no /proc"), ConnectionError("no such actor"), ActorDied("killed"), None]
    workers = Workers([Scripted([one or status] * 3, refuses=isinstance(one, ConnectionError)) for one in errors], 0.0)
    records = [asked(workers) for _ in range(3)]
    assert records[0] == {} and records[1] == records[2]
    assert {key.rpartition("/")[2] for key in records[1] if "worker/" in key} == {"3"}
    assert records[1]["rollout/preemptions/worker/3"] == 1 and records[1]["weight_sync/bytes"] == 1000
    count, said = workers.failures.news()
    assert count == 2 + 3 and said is not None  # asked three times; the answers to two of the calls were read
    assert "take_status of an actor failed (ConnectionError: no such actor)" in said


def test_a_restart_is_counted_once() -> None:
    before, after = (WorkerStatus(born, 3.0, 0.0, 0.25, 0.5, 2, 1, 1000, 0.5) for born in (1.0, 2.0))
    grader = Scripted([Pulse(status.born) for status in (before, after, after, after, after)], method="pulse")
    of_learner = iter([0, 0, 1, 1, 3, 3])
    samplers = [Scripted([before, before, ActorDied("killed"), after, after])]
    workers = Workers(samplers, 0.0, [grader], lambda: next(of_learner))
    records = [asked(workers) for _ in range(6)]
    assert [record.get("restarts/worker/0") for record in records] == [None, 0, 0, None, 1, 0]
    assert [record.get("restarts/reward/0") for record in records] == [None, 0, 1, 0, 0, 0]
    assert [record.get("restarts/learner") for record in records] == [None, None, 1, None, 2, None]


def test_a_tracker_that_failed_is_tried_again_later(tmp_path: Path) -> None:
    kept: list[int] = []
    broken = [True]

    class Counts:
        def write(self, step: int, line: Any, values: Any) -> None:
            kept.append(step)

        def close(self, end: Any = None) -> None:
            kept.append(-1)

    def start() -> Counts:
        if broken:
            broken.clear()
            raise ConnectionError("nobody listens")
        return Counts()

    one = Background("mlflow", start, retry_s=0.0)
    for step in (1, 2, 3):
        one.write(step, {}, {})
    one.close()
    assert kept == [2, 3, -1] and one.failures.news()[0] == 1


def test_a_tracker_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def start() -> Any:
        never.wait()

    one = Background("wandb", start, close_s=0.05)
    one.write(1, {}, {})
    one.close()
    failures, said = one.failures.news()
    assert failures == 1 and said is not None and "did not end within" in said
    never.set()


def test_a_missing_package_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"tracker.wandb=mine needs the package wandb.*thinkless\[trackers\]"):
        sinks.refuse_absent(TrackerConf(wandb="mine"))
    sinks.refuse_absent(TrackerConf())
