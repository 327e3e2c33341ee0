"""A run's stages: which are missing, by what its folder holds; and a folder that goes away meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from conf.schema import Config, TrackerConf
from orchestrator.base.errors import RunError
from orchestrator.base.record import readable
from orchestrator.base.same_folder import FolderGone, SameFolder
from orchestrator.commands import train
from orchestrator.commands.train import _how_to_go_on
from orchestrator.tracking.line_files import LineFiles
from orchestrator.tracking.tracker import Tracker
from orchestrator.training import evaluation, run_dir
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.evaluation import Evaluator
from orchestrator.training.retention import Retention
from orchestrator.training.stages import STAGES, UNASKED, Stand, missing
from orchestrator.training.unjudged import UnjudgedLog
from reward.verdict import Outcome, Verdict
from rollout.mode import Mode
from rollout.prompt import Prompt

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


def test_an_end_behind_the_last_stage_asks_for_nothing_more(finished: Path) -> None:
    """Ctrl-C while Ray is being ended, say: resume= would refuse."""
    store = CheckpointStore(finished, Retention(1))
    (finished / "checkpoints" / f"step_{STEPS:06d}").mkdir(parents=True)
    assert _how_to_go_on(store, finished, CONF) == "the run had done all of its stages"
    (finished / "report.html").unlink()
    assert _how_to_go_on(store, finished, CONF).startswith(
        f"the last checkpoint is of step {STEPS}; to go on from it: "
    )


def test_a_finished_run_says_what_has_been_damaged_since(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed before its report: without metrics.jsonl there is none to make, and nothing is missing."""
    (finished / "checkpoints" / f"step_{STEPS:06}").mkdir(parents=True)
    for name in ("samples.jsonl", "samples.txt"):
        (finished / name).touch()
    (finished / "report.html").unlink()
    (finished / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=f"has finished its {STEPS} steps; to add some: "):
        train._command(CONF, cast(Any, None), finished, True, None)
    assert f"{finished}: metrics.jsonl is missing" in capfd.readouterr().err.splitlines()


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


def test_without_questions_the_evaluation_is_done(finished: Path) -> None:
    """There is no evaluation.json then: what the run noted tells that nothing is missing."""
    (finished / "evaluation.json").unlink()
    run_dir.mark(finished, NAMES, STEPS)
    assert left(finished) == ["evaluate", "report"]
    run_dir.mark(finished, [UNASKED], STEPS)
    assert left(finished) == []
    more = replace(CONF, run=replace(CONF.run, steps=STEPS + 5))
    assert left(finished, more, STEPS + 5) == ["export", "evaluate", "report"]


def test_an_evaluation_goes_on_with_the_ways_that_are_missing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt("p", "?", np.zeros(1, np.int32), "1", "own", None)]
    asked: list[Mode | None] = []
    killed_at = 1

    def measure(sampler: None, grader: None, prompts: list[Prompt], *how: Any) -> tuple[list[Any], list[Verdict]]:
        sampling = how[2]
        if len(asked) == killed_at:
            raise KeyboardInterrupt
        asked.append(sampling.mode)
        return [], [Verdict(Outcome.CRASHED, None, 0.0)]

    def evaluate(conf: Config) -> dict[str, Any]:
        tracker = Tracker(finished, TrackerConf(console=False, gauges=False), STEPS, STEPS, lambda ids: "", 0)
        log = UnjudgedLog(conf.reward, lambda text: None)
        nothing: Any = None
        return Evaluator(conf, finished, nothing, nothing, prompts, tracker, log).run("final")

    monkeypatch.setattr(evaluation, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        evaluate(CONF)
    assert asked == [None] and (finished / evaluation.SO_FAR).is_file()
    killed_at = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(CONF)
    assert asked == [None, Mode.THINK]
    others, killed_at = replace(CONF, evaluate=replace(CONF.evaluate, seed=CONF.evaluate.seed + 1)), 9
    assert [*evaluate(CONF)] == ["free", "think", "short"] and asked == [None, Mode.THINK, Mode.SHORT]
    assert not (finished / evaluation.SO_FAR).exists()
    assert readable(finished / "evaluation.json")["models"]["final"]["free"]["all"]["unjudged"] == CONF.evaluate.samples
    asked.clear()
    killed_at = 1
    with pytest.raises(KeyboardInterrupt):
        evaluate(CONF)
    killed_at = 9
    evaluate(others)  # under other settings it begins again
    assert asked == [None, None, Mode.THINK, Mode.SHORT]


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
