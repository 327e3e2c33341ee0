"""`thinkless model check`: what it says of models with one peculiarity each, and that it ends with 1 for a problem."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conf.errors import BadConfig
from conf.schema import Config, DataConf, ModelConf, RolloutConf
from orchestrator.commands.model import findings, path_of
from rollout.data.tokens import ASSISTANT, build_character_tokenizer
from rollout.vllm_models import known

pytestmark = pytest.mark.heavy  # imports vLLM
QWEN = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 264,
    "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
CONF = Config(data=DataConf(max_prompt_tokens=128), rollout=RolloutConf(max_model_len=512))

Said = Callable[..., list[str]]


def conf_of(folder: Path, conf: Config = CONF) -> Config:
    return replace(conf, model=replace(conf.model, path=str(folder)))


@pytest.fixture
def said(tmp_path: Path) -> Said:
    """`said(config.json's changes, generation_config, names, template's changes)`: the lines of the check."""

    def lines(
        config: dict[str, object] | None = None,
        generation: dict[str, object] | None = None,
        names: ModelConf | None = None,
        begins: str = "",
        conf: Config = CONF,
    ) -> list[str]:
        build_character_tokenizer(tmp_path, names)
        (tmp_path / "config.json").write_text(json.dumps(QWEN | (config or {})))
        if generation:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        if begins:
            file = tmp_path / "chat_template.jinja"
            end = f"{ASSISTANT}{{%- endif -%}}"
            text = file.read_text()
            assert text.endswith(end)
            file.write_text(text.removesuffix(end) + f"{ASSISTANT}{begins}{{%- endif -%}}")
        return [f"{one.level} {area}: {one.text}" for area, one in findings(conf_of(tmp_path, conf))]

    return lines


def test_a_model_that_is_ready(said: Said) -> None:
    found = said()
    text = "\n".join(found)
    assert all(line.startswith("ok ") for line in found), text
    assert "class: the sampler, vLLM, has Qwen2ForCausalLM" in text and "(tied)" in text
    assert "control tokens: <think> is id 4, a token of its own" in text
    assert "prompt: '<|user|>What is 7+2?<|assistant|>', 14 tokens" in text
    assert "ends: a response ends with <|end|> (1)" in text


def test_what_a_template_and_a_generation_config_bring(said: Said) -> None:
    text = "\n".join(said(generation={"temperature": 0.6, "top_p": 0.95, "eos_token_id": [1, 2]}, begins="<think>"))
    assert "note prompt: the template begins the answer with '<think>', which is left out" in text
    assert "ends: a response ends with <|end|> (1), <|user|> (2)" in text
    assert "note ends: its generation_config.json samples with temperature=0.6, top_p=0.95; a run samples with" in text


def test_a_date_and_a_doubled_beginning_of_sequence_are_noted(said: Said, tmp_path: Path) -> None:
    text = "\n".join(said(begins="{{ strftime_now('%Y') }}"))
    assert "note prompt: the template writes today's date" in text
    template, names = tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"
    plain, given = template.read_text(), json.loads(names.read_text())
    names.write_text(json.dumps({**given, "bos_token": "<|end|>"}))
    for times, words in (
        (0, "ok prompt: the prompt does not begin with the beginning of sequence (<|end|>)"),
        (1, "ok prompt: the prompt begins with the beginning of sequence (<|end|>)"),
        (2, "note prompt: the prompt begins with the beginning of sequence (<|end|>) 2 times"),
    ):
        template.write_text("{{ bos_token }}" * times + plain)
        assert words in [f"{one.level} {area}: {one.text}" for area, one in findings(conf_of(tmp_path))]


def test_control_tokens_that_are_added(said: Said) -> None:
    text = "\n".join(said(names=ModelConf(think_token="<a>", think_end_token="</a>", short_token="<b>")))
    assert "<short> is id 266, new: the warm-up trains it" in text
    assert "the embeddings grow from 264 to 267 rows" in text and "note control tokens: without a warm-up" in text
    assert "the embeddings have room, 36 rows belong to no token" in "\n".join(said({"vocab_size": 300}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "apertus", "architectures": ["ApertusForCausalLM"]}, "PROBLEM class: .*log-probs in vLLM"),
        ({"model_type": "nonsense", "architectures": ["NonsenseForCausalLM"]}, "PROBLEM class: transformers has no"),
        ({"max_position_embeddings": 100}, "PROBLEM settings: .*rollout.max_model_len=512 is longer"),
        ({"vocab_size": 100}, "PROBLEM settings: .*do not belong together"),
    ],
)
def test_problems(said: Said, config: dict[str, object], words: str) -> None:
    problems = [line for line in said(config) if line.startswith("PROBLEM")]
    assert len(problems) == 1 and re.search(words, problems[0]), problems


def test_classes_that_vllm_knows() -> None:
    assert known("LlamaForCausalLM") and not known("NonsenseForCausalLM")


def test_what_follows_the_command() -> None:
    assert path_of(["check", "/m", "run.seed=1"]) == ("/m", ["run.seed=1"])
    for words in ([], ["check"], ["chek", "/m"], ["check", "/m", "/n"]):
        with pytest.raises(BadConfig, match="takes check <folder or hub id>, got"):
            path_of(words)
