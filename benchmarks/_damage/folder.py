"""A run folder with every file that a run, its evaluation and its sweep leave, made in a second without a run.

In: a folder, a model's. Out: the files, as their writers write them. Must not know: what reads them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from conf.compose import from_file, run_command
from conf.flags import Flags
from conf.schema import Config, EvaluateConf
from learner.written import Written
from orchestrator.base.journal import Journal
from orchestrator.base.line import written
from orchestrator.base.record import write_record
from orchestrator.commands.arguments import read
from orchestrator.evaluation.answers import Answer, ways_of
from orchestrator.evaluation.results import grids, results
from orchestrator.sweeps.state import FINISHED, MemberState, SweepState
from orchestrator.training import run_dir
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.retention import Retention
from orchestrator.training.stages import STAGES
from rollout.data.stream import PromptStream
from rollout.mode import MODES
from tests.helpers.runs import level_figures
from tests.helpers.watched import LEVELS, add_timeline, answer, record

STEPS = 12
LEVEL_OF = {"q1": "2", "q2": "2"}
MINE, OTHER = "mine", "other"  # the run; an evaluation that its own is compared with
EVALUATED = ("evaluate-x/evaluation.json", "evaluate-x/problems.json", "evaluate-x/answers.jsonl")
FILES = (
    *("config.yaml", "provenance.json", "metrics.jsonl", "samples.jsonl", "samples.txt", "timeline.json"),
    *("evaluation.json", "warmup.json", "warmup.jsonl", "warmup_evaluation.jsonl", "unjudged.jsonl", ".lock"),
    *(*EVALUATED, "../sweep/sweep.yaml"),
)
CHECKPOINT = tuple(f"checkpoints/step_{STEPS:06d}/{name}" for name in ("state.json", "weights", "manifest.json"))


class Writes:
    """A learner that saves next to nothing."""

    def save(self, folder: str) -> Written:
        (Path(folder) / "weights").write_text("w" * 100)
        return {}


def build(runs: Path, model: Path) -> None:
    """A run that has done its steps, was evaluated and belongs to a sweep; beside it another evaluation."""
    folder = runs / MINE
    found: list[Config] = []
    given = ("experiment=quickstart", f"run.steps={STEPS}", "warmup.cache=none", f"run.root={runs}")
    options = read("train", given)
    run_command("train", found.append, options.overrides, Flags.of(options))
    (conf,) = found
    folder.mkdir(parents=True)
    run_dir.record(folder, conf, "0" * 64)
    _lines(folder / "metrics.jsonl", [record(step) for step in range(1, STEPS + 1)])
    answers = [answer(step, ("think", "short", None)[step % 3]) for step in range(STEPS)]
    _lines(folder / "samples.jsonl", answers)
    texts = [f"--- step {a['step']}, u, level 2\n{a['problem']}\n{a['response']}\n\n" for a in answers]
    (folder / "samples.txt").write_text("".join(texts))
    add_timeline(folder, STEPS)
    ways = {way: {level: level_figures(0.9, 0.5, 0.5, 9.0) for level in LEVELS} for way in ("free", "think", "short")}
    mix = {"levels": [*LEVELS], "weights": {"2": 0.8, "7": 0.2}, "models": {"warmup": ways, "final": ways}}
    write_record(folder / "evaluation.json", mix)
    _lines(folder / "warmup.jsonl", [{"step": step, "loss": 1 / step} for step in range(1, 9)])
    right = {f"validation/accuracy/forced/{mode}": 0.5 for mode in ("think", "short")}
    _lines(folder / "warmup_evaluation.jsonl", [{"step": step, **right} for step in (4, 8)])
    write_record(folder / "warmup.json", {"steps": 8, "longest_short_answer": 30})
    _lines(folder / "unjudged.jsonl", [{"step": 3, "during": "step 3", "outcome": "raised", "error": "E: e"}])
    (folder / ".lock").write_text("process 1 on here")
    stream = PromptStream(None, lambda problem: np.zeros(1, np.int32), conf.data, conf.run.seed)
    CheckpointStore(folder, Retention(1)).save(STEPS, Writes(), {"prompts": stream.state()})
    (folder / "model").symlink_to(model)
    run_dir.mark(folder, [stage.name for stage in STAGES], STEPS)
    run_dir.ended(folder)
    evaluation(folder / "evaluate-x", folder / "model")
    evaluation(runs / OTHER, model)
    sweep = SweepState(runs / "sweep", "thinkless train", "accuracy", True)
    sweep.folder.mkdir()
    sweep.members["a"] = MemberState(0, folder.name, ["run.seed=1"], FINISHED, 0.5)
    sweep.save()


def evaluation(folder: Path, model: Path) -> None:
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


def more_steps(folder: Path) -> Config:
    """The run's configuration, to go on for a few steps."""
    conf = from_file(folder / "config.yaml", [f"run.steps={STEPS + 5}"])
    return replace(conf, tracker=replace(conf.tracker, console=False, gauges=False))


def _lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_bytes(b"".join(map(written, records)))
