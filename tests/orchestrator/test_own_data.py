"""The user's own problems at a run's start: which warm-up fits them, and what is announced."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conf.schema import Config, DataConf, ModelConf, RandomModelConf, ValidationConf, WarmupConf
from orchestrator.commands import problems
from orchestrator.commands.problems import load_all_problems, refuse_foreign_warmup
from rollout.base.errors import BadInput


def test_generated_pairs_are_for_generated_questions_only() -> None:
    own, generated, pairs = DataConf(path="mine.jsonl"), WarmupConf(steps=10), WarmupConf(path="pairs.jsonl")
    for data, warmup in ((DataConf(), generated), (DataConf(), pairs), (DataConf(), None), (own, pairs), (own, None)):
        refuse_foreign_warmup(Config(data=data, warmup=warmup))
    for path in ("mine.jsonl", ["mine.jsonl", "others.jsonl"]):
        with pytest.raises(BadInput, match=r"mine.jsonl.*generated arithmetic.*warmup.path=<pairs>.*model.path="):
            refuse_foreign_warmup(Config(data=DataConf(path=path), warmup=generated, model=ModelConf(path="model")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"warmup": WarmupConf(path="piars.jsonl")}, r"warmup.path=piars.jsonl: no such file"),
        ({"warmup": WarmupConf(steps=1), "model": ModelConf(path="./modle")}, r"modle"),
        ({"data": DataConf(path="mine.jsonl"), "warmup": WarmupConf(steps=1)}, r"generated arithmetic"),
        (
            {"warmup": WarmupConf(steps=1, out="."), "model": ModelConf(random=RandomModelConf())},
            r"warmup.out=.* exists and is no warm-up",
        ),
    ],
)
def test_a_warm_up_that_cannot_be_is_rejected_before_anything_starts(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.commands import warmup

    def started(*_: Any) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(warmup, "Cluster", started)
    with pytest.raises(BadInput, match=said):
        warmup.command(replace(Config(), **change), [])


def test_fetching_a_data_set_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i}?", "answer": i}) + "\n" for i in range(9)))
    said = []

    def waiting(what: str) -> Any:
        said.append(what)
        return nullcontext()

    monkeypatch.setattr(problems, "waiting", waiting)
    load_all_problems(Config(data=DataConf(path=str(file)), validation=ValidationConf(path=file.as_uri())))
    assert said == [f"reading data.path={file}", f"reading validation.path={file.as_uri()}"]


def test_training_problems_that_repeat_a_held_out_question_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i % 15}?", "answer": 1}) + "\n" for i in range(20)))
    found = load_all_problems(Config(data=DataConf(path=str(file)), validation=ValidationConf(size=12)))
    assert found.training is not None
    left_out = 20 - 12 - len(found.training)
    assert left_out > 0 and found.notes[1].startswith(f"{left_out} training problems left out")
