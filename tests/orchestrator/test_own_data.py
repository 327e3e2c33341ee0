"""Problems of one's own at a run's start: which warm-up goes with them, and a word for what takes long to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf.schema import Config, DataConf, ModelConf, ValidationConf, WarmupConf
from orchestrator import problems
from orchestrator.problems import load_all_problems, refuse_foreign_warmup
from rollout.errors import BadInput


def test_generated_pairs_are_for_generated_questions_only() -> None:
    own, generated, pairs = DataConf(path="mine.jsonl"), WarmupConf(steps=10), WarmupConf(path="pairs.jsonl")
    for data, warmup in ((DataConf(), generated), (DataConf(), None), (own, pairs), (own, None)):
        refuse_foreign_warmup(Config(data=data, warmup=warmup))
    for path in ("mine.jsonl", ["mine.jsonl", "others.jsonl"]):
        with pytest.raises(BadInput, match=r"mine.jsonl.*generated arithmetic.*warmup.path=<pairs>.*model.path="):
            refuse_foreign_warmup(Config(data=DataConf(path=path), warmup=generated, model=ModelConf(path="model")))


def test_what_takes_long_to_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i}?", "answer": i}) + "\n" for i in range(9)))
    conf = Config(data=DataConf(path=str(file)), validation=ValidationConf(path=file.as_uri()))
    load_all_problems(conf)
    assert capsys.readouterr().out == f"fetching {file.as_uri()}\n"
    monkeypatch.setattr(problems, "LARGE", 10)
    load_all_problems(conf)
    assert capsys.readouterr().out == f"reading {file} (0 MB)\nfetching {file.as_uri()}\n"
