"""What a config.json says about a model: its limits as vLLM derives them, and what cannot be trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from learner.model.support import context_length, read_config, unsupported, whole
from rollout.base.errors import BadInput


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
            },
            32768,
        ),
        (
            {
                "max_position_embeddings": 2048,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 1024,
                },
            },
            2048,
        ),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"max_position_embeddings": 8192, "seq_length": 1024}, 1024),
    ],
    ids=["plain", "linear", "dynamic", "yarn", "llama3", "model_max_length", "the smallest"],
)
def test_the_context_length_is_the_one_that_vllm_derives(tmp_path: Path, written: dict[str, Any], length: int) -> None:
    """`vllm.config.model._get_and_verify_max_len` takes this length, and refuses one token more."""
    from vllm.config.model import _get_and_verify_max_len
    from vllm.transformers_utils.config import get_config
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 4, **written}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = get_config(tmp_path, trust_remote_code=False)
    arch = ModelArchConfigConvertorBase(found, found).convert()
    more: dict[str, Any] = {"tokenizer_config": None, "disable_sliding_window": False, "sliding_window": None}
    assert context_length(config)[0] == length
    assert _get_and_verify_max_len(found, arch, max_model_len=length, **more) == length
    with pytest.raises(ValueError, match="greater than the derived max_model_len"):
        _get_and_verify_max_len(found, arch, max_model_len=length + 1, **more)


def test_a_configuration_without_positions_has_no_limit() -> None:
    assert context_length({"model_type": "bloom"}) == (math.inf, "")
    assert context_length({"model_type": "gemma3_text", "max_position_embeddings": 99, "rope_scaling": {
        "rope_type": "linear", "factor": 8.0}}) == (99, "max_position_embeddings")  # fmt: skip


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture-of-experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 64}, "mixture-of-experts"),
        ({"model_type": "apertus"}, "log-probs in vLLM that differ"),
        ({"model_type": "cohere2", "sliding_window": 99}, "one token wider than transformers"),
        ({"use_sliding_window": True, "max_window_layers": 21, "num_hidden_layers": 28}, "max_window_layers"),
        ({"model_type": "falcon_mamba"}, "recurrent or convolution"),
        ({"model_type": "llama4_text", "layer_types": ["chunked_attention"]}, "chunked_attention"),
        ({"model_type": "mpt"}, "ALiBi"),
        ({"model_type": "falcon", "alibi": True}, "ALiBi"),
        ({"model_type": "stablelm"}, "accept no packed rows"),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 99}, "longrope"),
    ],
)
def test_unsupported_configurations_are_named(config: dict[str, Any], said: str) -> None:
    assert any(said in line for line in unsupported(config, 100)), unsupported(config, 100)


def test_supported_configurations_pass() -> None:
    for config in (
        {"model_type": "granite", "logits_scaling": 8.0, "num_experts": 0, "num_local_experts": None},
        {"model_type": "gemma2", "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        {"model_type": "mistral", "sliding_window": 64},
        {"model_type": "phi"},
        {"model_type": "cohere2", "sliding_window": 100, "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention"]},
        {"use_sliding_window": False, "max_window_layers": 21, "num_hidden_layers": 28},
        {"model_type": "llama", "rope_scaling": None, "alibi": False},
        {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 100},
    ):
        assert unsupported(config, 100) == []
    longrope = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 100}
    assert "room here for 101" in unsupported(longrope, 60, room=101)[0]  # vLLM would take the long factors


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attention_factor", 1.2, "attention_factor"),
        ("short_mscale", 1.1, "short_mscale"),
        ("factor", 32.0, "factor=32.0 instead of 4"),
        ("factor", 4.0, None),
    ],
)
def test_longrope_that_is_scaled_otherwise_in_vllm_is_named(key: str, value: float, said: str | None) -> None:
    rope = {"type": "longrope", "original_max_position_embeddings": 100, key: value}
    found = unsupported({"rope_scaling": rope, "max_position_embeddings": 400}, 100)
    assert found == [] if said is None else f"with {said}" in found[0]


def test_a_configuration_is_read_with_its_text_part(tmp_path: Path) -> None:
    assert read_config(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "outer", "text_config": {"model_type": "inner"}}))
    assert (read_config(str(tmp_path)) or {})["model_type"] == "inner" == whole({"model_type": "inner"})["model_type"]
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadInput, match=r"config\.json .*get the model again"):
            read_config(str(tmp_path))
