"""Trackers with their own libraries, writing to a folder; and those that fail, which a run survives."""

from __future__ import annotations

import importlib.util
import json
import resource
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from conf.schema import TrackerConf
from orchestrator.tracking import sinks
from orchestrator.tracking.sinks.background import Background
from orchestrator.tracking.tracker import Tracker
from rollout.base.errors import BadInput

RECORD = {"seconds/step": 1.0, "reward/mean": 0.25, "answers/think": 3, "think_rate/level/2": 0.5, "entropy": None}
VALUES = {"answer_tokens/think": [3.0, 8.0, 9.0], "answer_tokens/short": []}


def tracked(folder: Path, steps: int = 3, **conf: Any) -> list[dict[str, Any]]:
    """What metrics.jsonl has after a run of a few lines with these trackers."""
    folder.mkdir(exist_ok=True)
    settings = TrackerConf(progress=False, gauges=False, **conf)
    tracker = Tracker(folder, settings, steps, 0, lambda ids: "", 0, {"run": {"seed": 1}})
    for step in range(1, steps + 1):
        tracker.log(step, RECORD | {"reward/mean": 0.25 * step}, VALUES)
    tracker.close()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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


def test_mlflow_writes_to_its_store(tmp_path: Path) -> None:
    tracked(tmp_path / "run", mlflow=f"sqlite:///{tmp_path}/mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        rows = store.execute("select step, value from metrics where key = 'reward/mean' order by step").fetchall()
        (name, status), *_ = store.execute("select name, status from runs").fetchall()
    assert rows == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert (name, status) == ("run", "FINISHED")


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
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("tracker.tensorboard failed (FileExistsError") == 1 and "training goes on" in said


def test_a_disk_that_is_full_ends_a_tracker_and_no_run(tmp_path: Path) -> None:
    """No file of this process may grow beyond the limit while the tracker writes."""
    (one,) = sinks.trackers(TrackerConf(gauges=False, tensorboard=True), tmp_path, 0, {})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, limits[1]))
    try:
        for step in range(1, 20):
            one.write(step, RECORD, VALUES)
        one.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    failures, said = one.news()
    assert failures == 1 and said is not None and "OSError" in said and "File too large" in said
    assert one.news() == (0, None)


def test_a_tracker_that_failed_is_tried_again_later(tmp_path: Path) -> None:
    kept: list[int] = []
    broken = [True]

    class Counts:
        def write(self, step: int, line: Any, values: Any) -> None:
            kept.append(step)

        def close(self) -> None:
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
    assert kept == [2, 3, -1] and one.news()[0] == 1


def test_a_tracker_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def start() -> Any:
        never.wait()

    one = Background("wandb", start, close_s=0.05)
    one.write(1, {}, {})
    one.close()
    failures, said = one.news()
    assert failures == 1 and said is not None and "did not end within" in said
    never.set()


def test_a_missing_package_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"tracker.wandb=mine needs the package wandb.*thinkless\[trackers\]"):
        sinks.refuse_absent(TrackerConf(wandb="mine"))
    sinks.refuse_absent(TrackerConf())
