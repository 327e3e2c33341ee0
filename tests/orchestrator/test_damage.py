"""Damage to the text files of a run folder: every command that reads one goes on, or ends with one line that names it.

Nothing here starts Ray. Recorded steps have their own digests (test_replay), checkpoints theirs (test_checkpoint).
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.compose import from_file
from conf.errors import BadConfig
from conf.schema import EvaluateConf, TrackerConf
from learner.written import Written
from orchestrator.base.errors import RunError
from orchestrator.base.journal import Journal
from orchestrator.base.lock import locked
from orchestrator.base.record import write_record
from orchestrator.commands import chat, cli, train
from orchestrator.commands.warmup import kept_bound
from orchestrator.evaluation.answers import Answer, ways_of
from orchestrator.evaluation.results import grids, results
from orchestrator.jobs.progress import of_folder
from orchestrator.sweeps.members import finished
from orchestrator.sweeps.results import write_outcome
from orchestrator.sweeps.state import FINISHED, MemberState, SweepState, load
from orchestrator.tracking.chrome_trace import Trace
from orchestrator.tracking.results import read_config, result_lines, serving_lines
from orchestrator.tracking.serving import serve_command
from orchestrator.tracking.tracker import Tracker
from orchestrator.training import run_dir
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.retention import Retention
from orchestrator.watch.index import Index
from orchestrator.watch.terminal import screen
from orchestrator.watch.views import overview, templates
from rollout.base.errors import BadInput
from rollout.data.stream import PromptStream
from rollout.mode import MODES
from tests.helpers.composing import composed
from tests.helpers.damage import KINDS, damage
from tests.helpers.runs import level_figures
from tests.helpers.watched import LEVELS, add_timeline, answer, record, write_lines

STEPS = 12
LEVEL_OF = {"q1": "2", "q2": "2"}
FILES = (
    *("config.yaml", "provenance.json", "metrics.jsonl", "samples.jsonl", "samples.txt", "timeline.json"),
    *("evaluation.json", "warmup.json", "warmup.jsonl", "warmup_evaluation.jsonl", "unjudged.jsonl", ".lock"),
    *("evaluate-x/evaluation.json", "evaluate-x/problems.json", "evaluate-x/answers.jsonl", "../sweep/sweep.yaml"),
)
CASES = [  # three kinds of each file, and the other five in `make test-all`
    pytest.param(name, kind, marks=[] if (at + nth) % len(KINDS) in (0, 3, 5) else pytest.mark.bench)
    for nth, name in enumerate(FILES)
    for at, kind in enumerate(KINDS)
]
OURS = (BadConfig, BadInput, RunError, OSError)  # which the command line prints as one line


class Writes:
    """A learner that saves next to nothing."""

    def save(self, folder: str) -> Written:
        (Path(folder) / "weights").write_text("w")
        return {}


def build(folder: Path, model: Path) -> None:
    """A run that has done its steps, was evaluated and belongs to a sweep."""
    (conf,) = composed("experiment=quickstart", f"run.steps={STEPS}", "warmup.cache=none", f"run.root={folder.parent}")
    folder.mkdir(parents=True)
    run_dir.record(folder, conf, "0" * 64)
    write_lines(folder / "metrics.jsonl", [record(step) for step in range(1, STEPS + 1)])
    answers = [answer(step, ("think", "short", None)[step % 3]) for step in range(STEPS)]
    write_lines(folder / "samples.jsonl", answers)
    texts = [f"--- step {a['step']}, u, level 2\n{a['problem']}\n{a['response']}\n\n" for a in answers]
    (folder / "samples.txt").write_text("".join(texts))
    add_timeline(folder, STEPS)
    ways = {way: {level: level_figures(0.9, 0.5, 0.5, 9.0) for level in LEVELS} for way in ("free", "think", "short")}
    mix = {"levels": [*LEVELS], "weights": {"2": 0.8, "7": 0.2}, "models": {"warmup": ways, "final": ways}}
    write_record(folder / "evaluation.json", mix)
    write_lines(folder / "warmup.jsonl", [{"step": step, "loss": 1 / step} for step in range(1, 9)])
    right = {f"validation/accuracy/forced/{mode}": 0.5 for mode in ("think", "short")}
    write_lines(folder / "warmup_evaluation.jsonl", [{"step": step, **right} for step in (4, 8)])
    write_record(folder / "warmup.json", {"steps": 8, "longest_short_answer": 30})
    write_lines(folder / "unjudged.jsonl", [{"step": 3, "during": "step 3", "outcome": "raised", "error": "E: e"}])
    (folder / ".lock").write_text("process 1 on here")
    stream = PromptStream(None, lambda problem: np.zeros(1, np.int32), conf.data, conf.run.seed)
    CheckpointStore(folder, Retention(1)).save(STEPS, Writes(), {"prompts": stream.state()})
    (folder / "model").symlink_to(model)
    _evaluation(folder / "evaluate-x", folder / "model")
    sweep = SweepState(folder.parent / "sweep", "thinkless train", "accuracy", True)
    sweep.folder.mkdir()
    sweep.members["a"] = MemberState(0, folder.name, ["run.seed=1"], FINISHED, 0.5)
    sweep.save()


def _evaluation(folder: Path, model: Path) -> None:
    folder.mkdir()
    verdict = ("think", "correct", True, True, 1.0, "1", 9, -0.1)
    answers = [Answer(f"q{n}", way, 0, *verdict) for way in ways_of(MODES) for n in (1, 2)]
    journal = Journal(folder / "answers.jsonl", by="way")
    for one in answers:
        journal.add(one.as_json())
    journal.close()
    write_record(folder / "problems.json", LEVEL_OF)
    how = {"temperature": 1.0, "top_p": 1.0, "max_response_tokens": 64, "rewards": {}, "samples": 1}
    about = {"model": str(model), "data": {"name": "d", "sha256": "0" * 64}, "weights": {"2": 1.0}}
    figures = results(grids(answers, LEVEL_OF, 1, {"2": 1.0}), LEVEL_OF, EvaluateConf(samples=1))
    write_record(folder / "evaluation.json", {**about, **how, **figures})


class Reached(Exception):
    """The command would start Ray now."""


def resumed(folder: Path) -> None:
    """`train resume=`, to the cluster; then what it does with the folder when its parts are there."""
    conf = from_file(folder / "config.yaml", [f"run.steps={STEPS + 5}"])
    with pytest.raises(Reached):
        train.command(replace(conf, tracker=TrackerConf(console=False)), resume=folder)
    with locked(run_dir.lock(folder)):
        run_dir.record(folder, conf, "0" * 64)
        run_dir.add(folder, {"model": "m"})
        run_dir.mark(folder, ["export"], 0)
        quiet = TrackerConf(console=False, gauges=False)
        tracker = Tracker(folder, quiet, STEPS, STEPS, lambda ids: "", 0, read_config(folder))
        Trace(folder / "timeline.json", {}).close()
        run_dir.set_aside(folder / "evaluation.json", "what it had measured")
        tracker.close()
        run_dir.ended(folder)
    assert json.loads((folder / "provenance.json").read_text())["sessions"][-1]["ended"]


def watched(folder: Path) -> None:
    index = Index([folder])
    index.refresh(None)
    overview(templates(), index.runs, time.time())
    screen(index.runs, time.time(), 120, None)


def evaluated(folder: Path) -> None:
    """What `evaluate run.name=` reads before it goes on."""
    kept_bound(str(folder / "model"))
    Journal(folder / "evaluate-x" / "answers.jsonl", lambda line, place: Answer.of(dict(line)), by="way").close()


def swept(folder: Path) -> None:
    write_outcome(load(folder.parent / "sweep"))
    finished(folder)


def planned(folder: Path) -> None:
    try:
        cli.run("plan", [f"run={folder}"])
    except SystemExit:  # nothing fits
        pass


def ended(folder: Path) -> None:
    result_lines(folder)
    serving_lines(folder)


EVALUATED = ("evaluate-x/evaluation.json", "evaluate-x/problems.json", "evaluate-x/answers.jsonl")
COMMANDS: dict[str, tuple[Callable[[Path], Any], Collection[str]]] = {  # and the files that each of them reads
    "report": (
        lambda folder: cli.run("report", [f"run.name={folder}"]),
        {*FILES} - {"samples.txt", "warmup.json", ".lock", "../sweep/sweep.yaml", *EVALUATED},
    ),
    "watch": (watched, FILES[:3] + ("samples.jsonl", "timeline.json", "warmup.jsonl", ".lock")),
    "plan": (planned, FILES[:3]),
    "export": (
        lambda folder: cli.run("export", [f"run={folder}", "dial=1", f"out={folder / 'out'}"]),
        ("config.yaml", EVALUATED[0]),
    ),
    "chat": (lambda folder: serve_command(*chat._model(str(folder))), ("config.yaml",)),
    "compare": (
        lambda folder: cli.run("compare", [str(folder / "evaluate-x"), str(folder.parent / "other")]),
        EVALUATED,
    ),
    "evaluate": (evaluated, ("warmup.json", EVALUATED[2])),
    "jobs": (lambda folder: of_folder(folder), ("metrics.jsonl",)),
    "end of a run": (ended, ("config.yaml", "evaluation.json", "samples.jsonl")),
    "sweep": (swept, ("config.yaml", "metrics.jsonl", "evaluation.json", "../sweep/sweep.yaml")),
    "resume": (resumed, {*FILES} - {"warmup.json", "warmup.jsonl", "warmup_evaluation.jsonl", *EVALUATED}),
}


@pytest.fixture(scope="module")
def original(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole") / "runs"
    build(runs / "mine", tiny_model)
    _evaluation(runs / "other", tiny_model)
    return runs


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(conf: Any) -> Any:
        raise Reached

    monkeypatch.setattr(train, "Cluster", reached)


def survived(runs: Path, name: str | None = None) -> dict[str, str]:
    """Every command that reads the file (None: every one): what it ended with, "" if in order. Fails for an error that
    is no line of ours, or that names neither the file nor its folder."""
    said = {}
    for command, (call, files) in COMMANDS.items():
        if name is not None and name not in files:
            continue
        try:
            call(runs / "mine")
            said[command] = ""
        except OURS as error:
            said[command] = str(error)
            assert name and (Path(name).name in said[command] or "mine" in said[command]), (command, error)
    return said


def test_an_intact_folder_has_nothing_to_say(original: Path, tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(original, runs, symlinks=True)
    assert survived(runs) == dict.fromkeys(COMMANDS, "")
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_damaged_file_is_named_or_harmless(original: Path, tmp_path: Path, name: str, kind: str, capsys: Any) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(original, runs, symlinks=True)
    damage(runs / "mine" / name, kind, random.Random(f"{name} {kind}"))
    said = survived(runs, name)
    err = capsys.readouterr().err
    if name == "config.yaml" and kind not in ("delete", "folder"):
        assert all("config.yaml" in said[command] for command in ("plan", "export", "chat", "resume"))
    if name in ("provenance.json", "evaluation.json") and kind != "delete":
        assert f"{name} is damaged" in err and not said["resume"] and not said["report"]
