"""Code that comes with a model is run only with model.trust_remote_code=true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf.schema import ModelConf
from learner.model.policy import load_policy
from rollout.base.errors import BadInput
from rollout.data.tokens import load_tokenizer

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class Mine(PretrainedConfig):
    model_type = "mine"
class Model(PreTrainedModel):
    config_class = Mine
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder whose configuration, model and tokenizer are classes of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine.py").write_text(CODE.format(mark=str(tmp_path / "was-run")))
    parts = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": parts}))
    tokenizer = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": [None, "mine.Tokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.txt").write_text("[UNK]\n")
    return folder


def test_a_models_own_code_is_not_run_by_default(model: Path, tmp_path: Path) -> None:
    assert ModelConf().trust_remote_code is False
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_policy(str(model), "float32")
    with pytest.raises(BadInput, match="does not load"):
        load_tokenizer(model, ModelConf())
    assert not (tmp_path / "was-run").exists()


def test_it_is_run_when_it_is_trusted(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above would notice."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput):  # no weights
        load_policy(str(model), "float32", trust_remote_code=True)
    assert (tmp_path / "was-run").exists()
