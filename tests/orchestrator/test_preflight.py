"""Checks before anything starts: the model's folder, and whether the model can do what the settings require."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conf.schema import Config, DataConf, Dtype, ModelConf, RandomModelConf, RolloutConf, WarmupConf
from orchestrator.base.errors import RunError
from orchestrator.cluster.handles import start_error
from orchestrator.commands.preflight import located, refuse_unreadable
from orchestrator.commands.warmup import fingerprint
from rollout.base.errors import BadInput, in_one_line
from rollout.data.pairs import load_pairs

Model = Callable[..., Config]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Model:
    """`model(key=value, ...)`: settings whose model.path has these keys in its config.json."""

    def make(**keys: Any) -> Config:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        config = json.loads((tiny_model / "config.json").read_text()) | keys
        (folder / "config.json").write_text(json.dumps(config))
        return Config(model=ModelConf(path=str(folder)))

    return make


# ---- limits and kinds of models ----


def test_a_model_must_have_positions_for_the_longest_sequence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = model(max_position_embeddings=512)
    said = r"model\.path=.*rollout\.max_model_len=2048 is longer than the model's 512 positions \(max_position_emb"
    for command in ("train", "evaluate"):
        with pytest.raises(BadInput, match=said):
            refuse_unreadable(conf, command)
    refuse_unreadable(replace(conf, rollout=RolloutConf(max_model_len=512)), "evaluate")
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    refuse_unreadable(model(max_position_embeddings=512, rope_parameters=scaled))
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")  # vLLM's own way round
    refuse_unreadable(conf, "evaluate")


def test_a_random_model_must_have_positions_for_the_longest_sequence() -> None:
    """Noticed before the warm-up that makes the model, and before an engine."""
    conf = Config(model=ModelConf(random=RandomModelConf(max_position_embeddings=1024)), warmup=WarmupConf(steps=1))
    with pytest.raises(BadInput, match=r"model\.random: warmup\.max_tokens=2048 is longer than the model's 1024"):
        refuse_unreadable(conf, "warmup")
    conf = replace(conf, warmup=WarmupConf(steps=1, max_tokens=1024))
    refuse_unreadable(conf, "warmup")
    with pytest.raises(BadInput, match=r"model\.random: rollout\.max_model_len=2048 .* 1024 positions"):
        refuse_unreadable(conf, "train")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_experts": 8}, "mixture-of-experts layers"),
        ({"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 1}, "in some of its layers only"),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 1500}, "room here for 2048"),
    ],
)
def test_a_model_that_cannot_be_trained_can_be_evaluated(model: Model, keys: dict[str, Any], said: str) -> None:
    conf = model(**keys)
    with pytest.raises(BadInput, match=rf"model\.path=.*\(model type qwen2\) cannot be trained here: it has .*{said}"):
        refuse_unreadable(conf, "train")
    refuse_unreadable(conf, "evaluate")


def test_sequences_shorter_than_the_sliding_window_are_accepted(model: Model) -> None:
    conf = model(sliding_window=512, layer_types=["sliding_attention"] * 3)
    refuse_unreadable(replace(conf, data=DataConf(max_prompt_tokens=384)))


def test_parallel_sizes_must_divide_the_attention_heads(model: Model) -> None:
    conf = model()
    with pytest.raises(BadInput, match=r"rollout\.tensor_parallel=4 does not divide the model's 2 attention heads"):
        refuse_unreadable(replace(conf, rollout=RolloutConf(tensor_parallel=4)))
    refuse_unreadable(replace(conf, rollout=RolloutConf(tensor_parallel=2)))
    shared = replace(conf, learner=replace(conf.learner, ranks=4, sequence_parallel=4))
    with pytest.raises(BadInput, match=r"learner\.sequence_parallel=4 does not divide the model's 2 attention heads"):
        refuse_unreadable(shared)
    refuse_unreadable(shared, "evaluate")
    shared = replace(model(model_type="qwen3_5_text"), learner=replace(conf.learner, ranks=2, sequence_parallel=2))
    with pytest.raises(BadInput, match=r"sequence_parallel=2 divides sequences, .*qwen3_5_text\) has recurrent layers"):
        refuse_unreadable(shared)
    compiled = replace(shared, learner=replace(conf.learner, compile_layers=True))
    with pytest.raises(BadInput, match=r"compile_layers=true is not supported .*qwen3_5_text\), which has recurrent"):
        refuse_unreadable(compiled)


def test_gated_delta_nets_need_bfloat16_on_a_cpu_and_qwen3_5_torchvision(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM has them, but says so where nobody looks, or when the first token is sampled."""
    conf = model(model_type="qwen3_5_text", layer_types=["linear_attention", "full_attention"])
    narrow = replace(conf, model=replace(conf.model, dtype=Dtype.bfloat16))
    for found in (None, "a package"):
        monkeypatch.setattr("orchestrator.commands.preflight.find_spec", lambda _, found=found: found)
        for command in ("train", "evaluate"):
            with pytest.raises(BadInput, match=r"qwen3_5_text\) in bfloat16 only: set model\.dtype=bfloat16"):
                refuse_unreadable(conf, command)
        if found is None:
            with pytest.raises(BadInput, match=r"imports torchvision, which is not installed; docs/models\.md says"):
                refuse_unreadable(narrow, "train")
    refuse_unreadable(narrow, "train")


def test_a_tokenizer_with_more_ids_than_the_model_is_rejected(model: Model) -> None:
    with pytest.raises(BadInput, match=r"its tokenizer has id \d+ \(.+\), but the model only 100 embeddings"):
        refuse_unreadable(model(vocab_size=100))


# ---- where the model is ----


def test_paths_are_made_absolute_before_they_are_sent_to_actors(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "home" / "mine" / "model")
    template = tmp_path / "home" / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "mine")
    want = str(tmp_path / "home" / "mine" / "model")
    for path in ("model", "./model", "../mine/model/", "~/mine/model", want):
        conf = Config(model=ModelConf(path=path, chat_template="../chat.jinja"))
        refuse_unreadable(conf)
        assert located(conf).model.path == want and located(conf).model.chat_template == str(template)
    for other in ("owner/name", "absent", want + "/", None):  # a hub id; not there; absolute already; none
        conf = Config(model=ModelConf(path=other))
        assert located(conf) == conf


def test_a_cached_warm_up_is_found_again_only_for_the_same_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models that are called `model` where one stands are two; a hub id or an absolute path is what it was."""
    pairs = load_pairs(WarmupConf(steps=1), ModelConf())
    prints = []
    for name in ("one", "two"):
        shutil.copytree(tiny_model, tmp_path / name / "model")
        monkeypatch.chdir(tmp_path / name)
        conf = Config(model=ModelConf(path="model"), warmup=WarmupConf(steps=1))
        absolute = replace(conf, model=ModelConf(path=str(tmp_path / name / "model")))
        assert fingerprint(located(conf), pairs) == fingerprint(absolute, pairs)
        prints.append(fingerprint(located(conf), pairs))
        hub = Config(model=ModelConf(path="owner/name"), warmup=WarmupConf(steps=1))
        assert fingerprint(located(hub), pairs) == fingerprint(hub, pairs)
    assert prints[0] != prints[1]


def test_a_resumed_run_starts_from_the_model_in_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    """Copied elsewhere, with the model that it was given out of reach."""
    conf = Config(model=ModelConf(path=str(tmp_path / "gone")))
    run = tmp_path / "run"
    run.mkdir()
    for record in (None, {"model": str(tmp_path / "gone")}, {}):
        if record is not None:
            (run / "provenance.json").write_text(json.dumps(record))
        with pytest.raises(BadInput, match=f"there is no folder {tmp_path}/gone on host"):
            refuse_unreadable(conf, "train", run)
    shutil.copytree(tiny_model, run / "base")
    refuse_unreadable(conf, "train", run)
    (run / "base").rename(tmp_path / "elsewhere")
    (run / "provenance.json").write_text(json.dumps({"model": str(tmp_path / "elsewhere")}))
    refuse_unreadable(conf, "train", run)
    weights = tmp_path / "elsewhere" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"model.path={tmp_path}/elsewhere: model.safetensors is truncated"):
        refuse_unreadable(conf, "train", run)


def test_preflight_checks_import_no_heavy_library(model: Model) -> None:
    """A given model is looked at without torch: a mistake is reported within a second or two of the command."""
    script = (
        "import sys; from conf.schema import Config, ModelConf; from orchestrator.commands.preflight import "
        "refuse_unreadable; "
        "refuse_unreadable(Config(model=ModelConf(path=sys.argv[1]))); "
        "assert not {'torch', 'vllm', 'ray', 'deepspeed'} & set(sys.modules), sorted(sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(model().model.path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


# ---- errors of others, in one line ----


def test_an_actors_error_is_reported_with_all_lines_and_its_cause() -> None:
    import pydantic

    class Limited(pydantic.BaseModel):
        length: int

        @pydantic.field_validator("length")
        @classmethod
        def fits(cls, value: int) -> int:
            raise ValueError(f"{value} is greater\nthan 512")

    with pytest.raises(pydantic.ValidationError) as invalid:
        Limited(length=9)
    assert in_one_line(invalid.value) == "ValidationError: 9 is greater than 512"
    try:
        try:
            raise OSError("no space\n  left")
        except OSError as error:
            raise RuntimeError("cannot start,\nsee above") from error
    except RuntimeError as error:
        assert in_one_line(error) == "RuntimeError: cannot start, see above; caused by OSError: no space left"
        assert in_one_line(error, 20) == "RuntimeError: canno…"
    try:
        try:
            raise KeyError("packed")
        except KeyError:
            raise ValueError from None
    except ValueError as error:
        assert in_one_line(error) == "ValueError: no message"


STORY = """The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=1, ip=10.0.0.1)
  File "/a/first.py", line 3, in first
    raise KeyError("a")
KeyError: 'a'

The above exception was the direct cause of the following exception:

ray::Worker.__init__() (pid=1, ip=10.0.0.1)
           ^^^^^^^^^^
  File "/a/worker.py", line 16, in __init__
    start(self)
    ^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, max_model_len (4096)\nis greater [type=value_error]\n    For further information visit x",
            RunError,
            "sampler: cannot start (ValidationError: 1 validation error for ModelConfig Value error, max_model_len "
            "(4096) is greater [type=value_error] For further information visit x)",
        ),
        ("rollout.base.errors.BadInput: model.path=x: gone\nreally", BadInput, "model.path=x: gone really"),
        ("AssertionError", RunError, "sampler: cannot start (AssertionError)"),
    ],
    ids=["several lines", "ours", "no message"],
)
def test_an_actors_start_up_error_is_quoted_in_full(end: str, kind: type[Exception], said: str) -> None:
    error = start_error("sampler", RuntimeError(STORY + end + "\n"))
    assert type(error) is kind and str(error) == said
