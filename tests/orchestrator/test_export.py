"""`thinkless export`: a chosen dial is stored with a model, and every command that samples from it finds it there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from conf.compose import to_yaml
from conf.errors import BadConfig
from conf.schema import Config
from learner.model.policy import load_policy
from orchestrator.commands.cli import run
from orchestrator.evaluation.results import FORMAT
from orchestrator.tracking.serving import PLUGIN, serve_command
from rollout.base.errors import BadInput
from rollout.steering import stored_dial
from tests.helpers.engines import MakeLearner


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with a final model, at runs/mine of the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    shutil.copytree(tiny_model, folder / "model")
    (folder / "config.yaml").write_text(to_yaml(Config()))
    return folder


def dial_of(model: Path) -> float:
    return stored_dial(json.loads((model / "config.json").read_text()))


def evaluation(folder: Path, model: Path, bias: float = 0.0) -> None:
    """As `thinkless evaluate` leaves it: at its own dial of `bias` the model thinks on half of the problems."""
    curve = {
        "bias": [-8.0, 0.0, 8.0],
        "think_rate": [0.0, 0.5, 1.0],
        "accuracy": [0.4, 0.8, 0.9],
        "tokens": [5, 20, 50],
    }
    folder.mkdir()
    found = {"format": FORMAT, "model": str(model), "dial": curve, "bias": bias}
    (folder / "evaluation.json").write_text(json.dumps(found))


def test_a_runs_model_or_a_copy_of_it_gets_a_dial(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained / "model"
    run("export", ["run=mine", "dial=-1.5"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{model} has a dial of -1.5; to serve it:" and f"--logits-processors {PLUGIN}" in said[1]
    assert "--dtype float32" in said[1] and dial_of(model) == -1.5
    (model / "evaluate-x").mkdir()
    run("export", ["model=runs/mine/model", "dial=2", "out=other/mine"])
    copy = trained.parents[1] / "other" / "mine"
    assert dial_of(copy) == 2 and dial_of(model) == -1.5 and not (copy / "evaluate-x").exists()
    kept = {path.name for path in model.iterdir() if not path.name.startswith("evaluate-")}
    assert {path.name for path in copy.iterdir()} == kept
    assert "--served-model-name mine " in serve_command(copy, {})
    run("export", ["dial=0"])  # the newest run
    assert dial_of(model) == 0 and PLUGIN not in serve_command(model, {})


def test_training_forgets_a_dial(trained: Path, make_learner: MakeLearner, tmp_path: Path) -> None:
    run("export", ["run=mine", "dial=3"])
    assert load_policy(str(trained / "model"), "float32").causal_lm.config.first_token_bias
    learner = make_learner(trained / "model")
    learner.export(str(tmp_path / "again"))
    assert dial_of(tmp_path / "again") == 0


def test_an_evaluation_says_what_a_dial_gives(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its curve begins at the dial that it was measured with; evaluations of other models do not count."""
    evaluation(trained / "evaluate-a-1", trained / "model", bias=1.0)
    evaluation(trained / "evaluate-b-1", trained / "other", bias=50.0)
    run("export", ["run=mine", "dial=5"])
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "by evaluate-a-1: it thinks on 75%, 85.0% right, 35.0 tokens an answer"
    with pytest.raises(BadInput, match=r"^dial=9.5 is beyond what P\(think\) can express: from -7.0 down no problem"):
        run("export", ["run=mine", "dial=9.5"])
    assert dial_of(trained / "model") == 5


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "give dial=<bias>"),
        (("dial=much",), "dial=much must be a number, such as -1.5"),
        (("dial=101",), "dial=101 is beyond what P(think) can express: from -100 to 100"),
        (("dial=nan",), "dial=nan is beyond"),
        (("dial=1", "run=mine", "model=x"), "give run=<run> or model=<folder>, not both"),
        (("dial=1", "run=yours"), "no run 'yours'"),
        (("dial=1", "model=runs"), "holds no model: give run=<run>, or model=<another folder>"),
        (("dial=1", "out=runs"), "exists: give a folder that does not"),
        (("dial=1", "bias=2"), "thinkless export takes"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_one_line(trained: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises((BadInput, BadConfig), match=re.escape(said)):
        run("export", list(words))
    assert dial_of(trained / "model") == 0
