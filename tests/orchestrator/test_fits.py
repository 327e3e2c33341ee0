"""Sizes that this machine cannot hold are refused by arithmetic, in one line that names the settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from conf.compose import composed
from conf.errors import BadConfig
from conf.schema import Config
from orchestrator.commands import fits
from orchestrator.commands.ready import ready
from rollout.base.errors import BadInput
from tests.helpers.composing import composed as checked

TINY = ["experiment=quickstart", "rollout.workers=1"]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB, 4 CPUs, 100 GiB of disk, whatever this machine has."""
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 100 * 2**30))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.kv_cache_gib=17"], ("16.0 GiB of memory", "rollout.kv_cache_gib=17")),
        (["rollout.kv_cache_gib=0.001"], ("rollout.kv_cache_gib=0.001 holds", "rollout.max_model_len=2048")),
        (["model.random.hidden_size=20000", "rollout.kv_cache_gib=2"], ("learner.ranks=1", "rollout.kv_cache_gib=2")),
        (["model.random.hidden_size=10000", "model.random.ffn_size=1000", "rollout.kv_cache_gib=1"],
         ("run.save_in_background=true",)),
        (["reward.workers=1000", "reward.num_cpus=0.001"], ("reward.workers=1000",)),
        (["rollout.max_num_seqs=65000", "rollout.max_model_len=90000", "model.random.max_position_embeddings=90000"],
         ("rollout.max_num_seqs=65000 of rollout.max_model_len=90000",)),
        (["rollout.prompts_per_step=1000000", "rollout.group_size=10"],
         ("rollout.prompts_per_step=1000000 x rollout.group_size=10", "100.0 GiB free")),
        (["cluster.object_store_gib=90000"], ("cluster.object_store_gib=90000 is more than", "16.0 GiB")),
        (["learner.num_cpus=9999"], ("learner.ranks=1 of 9999", "this machine has 4")),
        (["data.max_prompt_tokens=3"], ("data.max_prompt_tokens=3", "shortest prompt")),
        (["warmup.max_tokens=3"], ("warmup.max_tokens=3", "first 20 questions")),
    ],
    ids=lambda value: str(value[0])[:40],
)  # fmt: skip
def test_what_does_not_fit_is_refused(overrides: list[str], said: tuple[str, ...]) -> None:
    (conf,) = checked(*TINY, *overrides)
    with pytest.raises(BadInput) as refused:
        ready(conf, "train")
    message = str(refused.value)
    assert all(part in message for part in said) and "\n" not in message, message


def test_what_fits_is_not_refused() -> None:
    (conf,) = checked(*TINY)
    found = ready(conf, "train")
    assert found.problems is not None and found.model is not None and found.model["hidden_size"] == 64
    assert ready(conf, "warmup").problems is None
    fits.refuse_too_large(composed(["experiment=thinkless_1p5b", "cluster.address=head:6379"]), "train", None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluate.questions=20000", "evaluate.questions=20000 of each of 4 levels are 80000 generated questions"),
        ("validation.size=60000", "validation.size=60000 are 60000 generated"),
        ("warmup.evaluate_questions=60000", "warmup.evaluate_questions=60000 are"),
        (
            "rollout.prompts_per_step=1000000 rollout.group_size=11",
            "x rollout.group_size=11 are 11000000 answers a step",
        ),
        ("rollout.num_cpus=0.33333", "rollout.num_cpus must be a multiple of 0.0001"),
        ("model.think_token=<short>er", "'<short>' must not be a part of model.think_token='<short>er'"),
        ("model.modes=[short,thinker,think] model.short_token=<thinker>", "must not be a part of"),
    ],
)
def test_products_and_tokens_are_checked_with_the_settings(override: str, said: str) -> None:
    with pytest.raises(BadConfig) as refused:
        checked(*TINY, *override.split())
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_shard_without_rows_is_refused_before_anything_starts(tmp_path: Path) -> None:
    conf = own(tmp_path, ["1+1", "2+2", "3+3"], shard=7, num_shards=8)
    with pytest.raises(BadInput, match=r"data.shard=7 of 8 is empty: the data set has 3 usable rows"):
        ready(conf, "train")


def test_problems_that_hold_a_token_of_the_model_are_left_out_and_counted(tmp_path: Path) -> None:
    """A prompt would end, or choose its mode, in the middle of such a question."""
    good = [f"{n}+1" for n in range(58)]
    conf = own(tmp_path, [*good, "What is <think>?", "1<|end|>2"])
    found = ready(conf, "train")
    assert found.problems is not None and found.problems.training is not None
    assert [problem.problem for problem in found.problems.training] == good
    (note,) = [note for note in found.problems.notes if "token" in note]
    assert note.startswith("2 of 60 training problems hold a token of the model (the first, <think>: ")
    assert f"{tmp_path.name}/own/58)" in note
    with pytest.raises(BadInput, match=r"3 of 61 training problems.*more than data.max_unusable=0.04"):
        ready(own(tmp_path, [*good, *["</think>"] * 3], max_unusable=0.04), "train")


def own(folder: Path, questions: list[str], **data: Any) -> Config:
    """A model of the quickstart's tokenizer and these questions."""
    import json

    from conf.schema import ModelConf
    from learner.model.prepare_model import random_config
    from rollout.data.tokens import build_character_tokenizer

    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps({"problem": one, "answer": "2"}) + "\n" for one in questions))
    build_character_tokenizer(folder / "model", ModelConf())
    made = composed(["experiment=quickstart"]).model.random
    assert made is not None
    (folder / "model" / "config.json").write_text(json.dumps(random_config(made) | {"vocab_size": 264}))
    settings = [f"data.{key}={value}" for key, value in data.items()]
    return composed([f"model.path={folder / 'model'}", f"data.path={file}", "validation.size=0", *settings])
