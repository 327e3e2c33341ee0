"""The pure parts of benchmarks/long_task.py: what is run again, means with intervals, the table, the picture."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks._study.members import DEGRPO, GRPO, VARIANTS, Member, members, start
from benchmarks._study.picture import TITLES, picture
from benchmarks._study.results import COLUMNS, difference, estimate, row, smoothed, table

LEVELS = ("0", "9")


def cell(accuracy: float, reward: float, think_rate: float, tokens: float) -> dict[str, float]:
    return {"n": 10, "accuracy": accuracy, "reward": reward, "think_rate": think_rate, "tokens": tokens}


def finished(member: Member, hard: float) -> Member:
    """A run whose final model thinks on the hard level at this rate, short answers being wrong there."""
    short = {"0": cell(1, 1, 0, 5), "9": cell(0, -1, 0, 5)}
    think = {level: cell(1, 0.5, 1, 305) for level in LEVELS}
    free = {"0": cell(1, 1, 0, 5), "9": cell(hard, 1.5 * hard - 1, hard, 5 + 300 * hard)}
    ways = {"free": free, "think": think, "short": short}
    warm_up = {**ways, "free": {level: cell(0.5, 0, 0.5, 155) for level in LEVELS}}
    evaluation = {"levels": LEVELS, "weights": {"0": 0.5, "9": 0.5}, "models": {"warmup": warm_up, "final": ways}}
    member.folder.mkdir(parents=True)
    (member.folder / "evaluation.json").write_text(json.dumps(evaluation))
    rates = [0.5, 0.6, 0.7, 0.8, 0.6, 0.4, hard / 2]
    records: list[dict[str, Any]] = [{"step": 0, "validation/reward": 0.0}]
    for step, rate in enumerate(rates, 1):
        by_level = {"think_rate/level/0": 0.0, "think_rate/level/9": rate if step != 3 else None}
        records.append({"step": step, "think_rate/all": rate, "answers/think": round(100 * rate), **by_level})
    (member.folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return member


def test_only_runs_with_a_final_evaluation_have_finished(tmp_path: Path) -> None:
    one, other = members(tmp_path, [1, 2], [DEGRPO])
    finished(one, 1.0)
    other.folder.mkdir()
    (other.folder / "evaluation.json").write_text(json.dumps({"models": {"warmup": {}}}))
    assert one.finished and not other.finished and not Member(GRPO, 1, tmp_path / "grpo-1").finished
    assert [m.folder.name for m in members(tmp_path, [1, 2], [*VARIANTS])][:3] == ["degrpo-1", "degrpo-2", "grpo-1"]


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a checkpoint begins again, and what it had left is gone."""
    commands: list[list[str]] = []
    monkeypatch.setattr("benchmarks._study.members.subprocess.Popen", lambda command, **_: commands.append(command))
    one, other = members(tmp_path, [1, 2], [GRPO])
    (one.folder / "checkpoints" / "step_000013").mkdir(parents=True)
    (other.folder / "checkpoints").mkdir(parents=True)
    for member in (one, other):
        start(member, ["run.steps=7"])
    assert commands[0][-1] == f"resume={one.folder}" and one.folder.is_dir()
    assert {"run.seed=2", "run.name=grpo-2", "algorithm=grpo", "run.steps=7"} <= {*commands[1]}
    assert not other.folder.exists()


def test_figures_of_a_run_are_those_of_its_files(tmp_path: Path) -> None:
    found = row(finished(Member(GRPO, 1, tmp_path / "run"), 0.2))
    assert found["regret"] == pytest.approx(0.5 * (0.5 - (1.5 * 0.2 - 1)))
    assert found["regret_warm_up"] == pytest.approx(0.5 * (1 - 0) + 0.5 * (0.5 - 0))
    assert found["accuracy_vs_always_think"] == pytest.approx(0.6 - 1)
    assert found["tokens_vs_oracle"] == pytest.approx((5 + 65) / (5 + 305))
    assert (found["think_easy"], found["think_hard"]) == (0.0, 0.2)
    assert found["fewest_thinking"] == 10 and found["think_rise"] > 0 and found["think_fall"] > found["think_rise"]
    assert found["warm_up"]["think_tokens"] == 305


def test_intervals_are_students() -> None:
    """By hand: 1, 2, 3 have standard deviation 1, and 4.303 is the quantile at two degrees of freedom."""
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None and found[0] == 2.0 and found[1] == pytest.approx(4.303 / math.sqrt(3))
    assert estimate([2.0, None]) == (2.0, None) and estimate([None]) is None
    assert smoothed([0, 0, 5, 0, 0]) == pytest.approx([5 / 3, 5 / 4, 1, 5 / 4, 5 / 3])


def test_the_effect_is_paired_by_seed() -> None:
    """A constant difference has no spread, however much the seeds differ."""
    rows = [{"variant": v, "seed": s, "regret": s + (v == GRPO)} for v in (DEGRPO, GRPO) for s in (1, 2, 3)]
    assert difference(rows, "regret") == (1.0, 0.0)
    assert difference([*rows, {"variant": GRPO, "seed": 4, "regret": 9.0}], "regret") == (1.0, 0.0)


def test_table_and_picture_hold_every_run(tmp_path: Path) -> None:
    shares = {DEGRPO: 1.0, GRPO: 0.1}
    rows = [row(finished(m, shares[m.variant])) for m in members(tmp_path, [1, 2], [*shares])]
    lines = table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[:5]] == ["variant", "---", DEGRPO, GRPO, "grpo minus degrpo"]
    assert all(line.count("|") == len(COLUMNS) + 3 for line in lines[:5])
    drawn = ElementTree.fromstring(picture(rows))
    curves = [path.get("class") for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
    assert (curves.count("o"), curves.count("m")) == (2 * 2 * 2, 2 * 2)
    words = " ".join(text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert all(TITLES[variant] in words for variant in shares) and "thinking pays" in words
