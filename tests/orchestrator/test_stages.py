"""A run's stages: which are missing, by what its folder holds; and a folder that goes away meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conf.schema import Config
from orchestrator.base.errors import RunError
from orchestrator.base.same_folder import FolderGone, SameFolder
from orchestrator.tracking.line_files import LineFiles
from orchestrator.training import run_dir
from orchestrator.training.stages import STAGES, Stand, missing

NAMES = [stage.name for stage in STAGES]
CONF = Config()
STEPS = CONF.run.steps


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What the folder of a finished run has, besides checkpoints."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "tokenizer_config.json").write_text("{}")  # which is written last
    (folder / "evaluation.json").write_text(json.dumps({"models": {"warmup": {}, "final": {}}}))
    (folder / "report.html").write_text("<p>")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "provenance.json").write_text("{}")
    return folder


def left(folder: Path, conf: Config = CONF, step: int | None = STEPS) -> list[str]:
    return [stage.name for stage in missing(Stand.of(folder, conf, step))]


def test_what_a_death_left_undone_is_missing_and_all_that_follows(finished: Path) -> None:
    assert left(finished) == []
    (finished / "report.html").unlink()
    assert left(finished) == ["report"]
    (finished / "evaluation.json").write_text(json.dumps({"models": {"warmup": {}}}))
    assert left(finished) == ["evaluate", "report"]
    (finished / "model" / "tokenizer_config.json").unlink()
    assert left(finished) == ["export", "evaluate", "report"]
    assert left(finished, step=STEPS - 1) == NAMES[1:] and left(finished, step=None) == NAMES


def test_what_is_not_asked_for_is_not_missing(finished: Path) -> None:
    (finished / "report.html").unlink()
    (finished / "evaluation.json").unlink()
    conf = replace(CONF, tracker=replace(CONF.tracker, report=False), evaluate=replace(CONF.evaluate, final=False))
    assert left(finished, conf) == []


def test_what_an_earlier_end_has_left_is_not_the_last_steps(finished: Path) -> None:
    """A finished run goes on to more steps and is killed before its export: the old model is not taken for the new."""
    more = replace(CONF, run=replace(CONF.run, steps=STEPS + 5))
    run_dir.mark(finished, NAMES, STEPS)
    assert left(finished) == [] and left(finished, more) == NAMES[1:]
    run_dir.mark(finished, NAMES[1:], 0)  # it begins
    assert left(finished, more, STEPS + 5) == ["export", "evaluate", "report"]
    run_dir.mark(finished, ["export"], STEPS + 5)
    assert left(finished, more, STEPS + 5) == ["evaluate", "report"]
    run_dir.mark(finished, ["evaluate", "report"], STEPS + 5)
    assert left(finished, more, STEPS + 5) == []


@pytest.mark.parametrize("damage", ["", "[]", '{"stages": 7}', '{"stages": {"export": "x"}}', '{"models": []}', "\0\0"])
def test_damaged_records_are_no_traceback(finished: Path, damage: str) -> None:
    for name in ("provenance.json", "evaluation.json"):
        (finished / name).write_text(damage)
    assert left(finished) in (["evaluate", "report"], ["export", "evaluate", "report"])


# ---- a folder that goes away under a run ----


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file_now(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("change", [deleted, moved, replaced, a_file_now])
def test_a_folder_that_goes_away_ends_its_run_and_nothing_more_is_written(
    finished: Path, change: Callable[[Path], None]
) -> None:
    same = SameFolder(finished)
    files = LineFiles(finished, same.check)
    same.check()
    assert files.append("metrics.jsonl", "{}\n")
    change(finished)
    for _ in range(2):
        with pytest.raises(
            FolderGone, match=rf"the folder {finished} was (deleted or moved|replaced by another folder)"
        ):
            files.append("metrics.jsonl", "{}\n")
    assert (issubclass(FolderGone, RunError) and not finished.is_dir()) or not [*finished.iterdir()]
    same.close()
