"""docs/tutorial.md: its commands for the CPU, word by word as they stand there, and the settings of those for GPUs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from conf.compose import composed
from conf.flags import NO_FLAGS
from orchestrator.commands import distill
from orchestrator.distill import asking
from orchestrator.jobs import submission
from tests.helpers.launched import Watched, succeeded
from tests.helpers.runs import steps

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
CPU, GPUS = TEXT.split("\n## On 4 GPUs\n")
WALK = ["warmup", "warmup", "distill", "warmup", "model", "train", "report"]  # what is tested below
WALK += ["evaluate", "export", "evaluate", "compare", "chat"]

# Behind the words of a command, whose values they replace: a hundredth of the work.
SMALLER = {
    "distill": "distill.problems=64 distill.keep=all distill.shard_rows=20 rollout.workers=1",
    "warmup": "warmup.steps=20 warmup.ranks=1",
    "train": "run.steps=2 rollout.prompts_per_step=4 rollout.group_size=4 rollout.workers=1 evaluate.every=0 "
    "evaluate.final=false",
    "evaluate": "evaluate.samples=2 evaluate.max_response_tokens=32",
}
# In the place of the teachers' warm-ups: a model that was warmed up on generated arithmetic. To these questions its
# answers are wrong, but have the form of answers, and distill.keep=all takes them.
TEACHERS = """thinkless() {{
  case "$*" in
    *warmup.out=reasoner) cp -r {model} reasoner; return;;
    *warmup.out=brief) cp -r {model} brief; return;;
  esac
  case "$1" in
{cases}  esac
  command thinkless "$@"
}}
"""


def blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for name, body in fenced if name == language]


def commands(text: str) -> list[list[str]]:
    """The words of each `thinkless` command in shell text, without what is fed to other programs."""
    plain = re.sub(r" *<<'EOT'\n.*?^EOT$", "", text, flags=re.M | re.S).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in plain.splitlines()]
    return [one[1:] for one in words if one[:1] == ["thinkless"]]


def walked(folder: Path, before: str = "") -> Watched:
    """The blocks of the CPU's part as one shell script, in a folder that stands for the checkout."""
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "walk.sh").write_text("set -e\n" + before + "".join(blocks(CPU, "sh")))
    return succeeded(Watched(["walk.sh"], folder, program=["bash"]).wait(3000))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*")) for row in pyarrow.parquet.read_table(path).to_pylist()]


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_from_teachers_to_a_trained_model(warm_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the CPU's part, with a hundredth of the work: vLLM engines sample the teachers; their answers
    are read, graded and sharded; a warm-up and a run take them. The same distillation again starts no Ray."""
    found = commands("".join(blocks(CPU, "sh")))
    assert [words[0] for words in found] == WALK
    cases = "".join(f'    {name}) set -- "$@" {words};;\n' for name, words in SMALLER.items())
    run, here = walked(tmp_path, TEACHERS.format(model=warm_up.model, cases=cases)), tmp_path / "tutorial"
    made = rows(here / "pairs")
    test = {json.loads(line)["problem"] for line in (here / "test.jsonl").read_text().splitlines()}
    assert len(made) > 40 and not test & {row["problem"] for row in made}
    assert len(list((here / "pairs").glob("*.parquet"))) == -(-len(made) // 20)
    card = json.loads((here / "pairs" / "card.json").read_text())
    assert card["questions"]["left_out"] == {"exact copy of an evaluation question": 20}
    for side, teacher in (("think", "reasoner"), ("short", "brief")):
        told = card["teachers"][side]
        assert (told["teacher"], told["answers"], {*told["pass_rate"]}) == (teacher, 128, {"2", "6"})
    for row in made:
        assert row["think"] is None or (row["think"].count("</think>") == 1 and 3 < row["think_tokens"] <= 64)
        assert row["short"] is None or "think>" not in row["short"]
    assert {row["think"] is None for row in made} >= {False} and {row["short"] is None for row in made} >= {False}
    assert "nothing prevents training it" in run.out and (here / "student" / "warmup.json").is_file()
    assert steps(here / "runs" / "tutorial") == [1, 2] and (here / "runs" / "tutorial" / "report.html").is_file()

    monkeypatch.chdir(here)
    monkeypatch.setattr(asking, "Cluster", None)
    distill.command(composed([*found[WALK.index("distill")][1:], *SMALLER["distill"].split()], NO_FLAGS))
    assert rows(here / "pairs") == made


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_the_whole_walk(tmp_path: Path) -> None:
    """As it stands there: the student learns from its teachers, and then to think where it has to."""
    walked(tmp_path)
    folder = tmp_path / "tutorial" / "runs" / "tutorial"
    found = json.loads((folder / "evaluation.json").read_text())["models"]
    before, after = (one["free"] for one in found.values())
    assert all(abs(one["think_rate"] - 0.5) < 0.25 for one in before.values())
    assert after["2"]["think_rate"] < 0.2 < 0.5 < after["6"]["think_rate"]
    assert min(one["accuracy"] for one in after.values()) > 0.9


def test_the_settings_for_gpus_are_accepted() -> None:
    """What the commands for 4 GPUs would be refused for at their start is refused here."""
    found = [words for words in commands("".join(blocks(GPUS, ""))) if words[0] in submission.SUBMITTED]
    assert [words[0] for words in found] == ["distill", "warmup", "train", "train", "evaluate"]
    for words in found:
        one = submission.read(words, NO_FLAGS)
        assert one.gpu or words[0] == "evaluate"  # of a run's own settings
