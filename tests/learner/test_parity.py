"""The learner's packed log-probs against transformers' own, for tiny random models of many families; those that differ
are rejected by name when they are loaded, whatever the settings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import LearnerConf, ModelConf
from learner.model.parity import BOUNDS, _log_probs, refuse_different
from learner.model.policy import load_policy
from learner.worker import LearnerWorker
from rollout.base.errors import BadInput
from tests.helpers.seldom import seldom

LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 512}  # fmt: skip
GROUPED = LLAMA | {"num_key_value_heads": 2}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
          "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONG = rope("longrope", short_factor=[1.0] * 4, long_factor=[4.0] * 4, original_max_position_embeddings=64)
LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 8}),
    "llama3": ("LlamaConfig", GROUPED | LLAMA3),
    "yarn": ("Qwen2Config", GROUPED | rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    "gemma": ("GemmaConfig", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7,
               "final_logit_softcapping": 3.0, "attn_logit_softcapping": 1.0}),
    "gemma3": ("Gemma3TextConfig", GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": 7}),
    "phi3": ("Phi3Config", GROUPED | {"sliding_window": 7}),
    "window": ("Qwen2Config", GROUPED | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2,
               "layer_types": ["sliding_attention", "sliding_attention"]}),
    "phi": ("PhiConfig", GROUPED),
    "granite": ("GraniteConfig", GROUPED | {"logits_scaling": 2.0, "residual_multiplier": 0.5,
                "embedding_multiplier": 6.0, "attention_multiplier": 0.2}),
    "cohere": ("CohereConfig", GROUPED | {"logit_scale": 2.0}),
    "olmo2": ("Olmo2Config", GROUPED),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("GPTNeoXConfig", LLAMA),
    "opt": ("OPTConfig", LLAMA | {"word_embed_proj_dim": 32, "ffn_dim": 48}),
    "lfm2": ("Lfm2Config", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "qwen3_5": ("Qwen3_5TextConfig", GROUPED | LINEAR | {"head_dim": 8}),
    "qwen3_next": ("Qwen3NextConfig", GROUPED | LINEAR | {"head_dim": 8, "num_experts": 0}),
    "mamba2": ("Mamba2Config", {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8,
               "state_size": 16, "n_groups": 1, "chunk_size": 16}),
}  # fmt: skip
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "apertus": ("ApertusConfig", GROUPED, "log-probs in vLLM that differ"),
    "gpt_oss": ("GptOssConfig", GROUPED | {"head_dim": 8, "num_local_experts": 4}, r"by [\d.]+ nats .*attention sinks"),
    "qwen3_next": ("Qwen3NextConfig", GROUPED | LINEAR | EXPERTS | {"head_dim": 8}, "mixture-of-experts layers"),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 16},
              r"by [\d.]+ nats .*recurrent or convolution"),
    "longrope": ("Phi3Config", GROUPED | LONG | {"original_max_position_embeddings": 64},
                 r"by [\d.]+ nats .*\(longrope\) that change .*longer than 64 tokens"),
    "dynamic": ("LlamaConfig", GROUPED | {"max_position_embeddings": 64} | rope("dynamic", factor=4.0),
                r"by [\d.]+ nats .*\(dynamic\) that change .*longer than 64 tokens"),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, r"by [\d.]+ nats .*ALiBi"),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4}, "does not accept a packed row .*ALiBi"),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}, "accept no packed rows"),
    "stablelm": ("StableLmConfig", GROUPED, "does not accept a packed row .*Layout.*attention layers in transformers"),
    "nemotron": ("NemotronConfig", GROUPED, "does not accept a packed row .*Layout"),
    "qwen3_moe": ("Qwen3MoeConfig", GROUPED | EXPERTS | {"head_dim": 8}, "mixture-of-experts layers"),
    "olmoe": ("OlmoeConfig", GROUPED | EXPERTS, "mixture-of-experts layers"),
}  # fmt: skip
LONGEST = 160


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`make(class of configuration, settings)`: the folder of such a model with random weights, vocabulary 264."""
    import transformers

    def folder(kind: str, settings: dict[str, Any]) -> str:
        common = {"vocab_size": 264, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
        spread = "init_std" if kind == "OPTConfig" else "initializer_range"
        config = getattr(transformers, kind)(**common, **{spread: 0.15}, **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = transformers.AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if parameter.ndim < 2 or "sink" in name:  # biases, norms, sinks: not zero, not one
                    parameter.data += 0.3 * torch.randn_like(parameter)
        path = tmp_path_factory.mktemp(kind)
        model.save_pretrained(path)
        return str(path)

    return folder


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in RIGHT]
    + [(name, "bfloat16") if name in ("qwen2", "gemma2") else seldom(name, "bfloat16") for name in RIGHT],
)
def test_supported_model_families_pass(make: Callable[..., str], name: str, dtype: str) -> None:
    """Far within the bounds; no global random number is drawn, and the policy is left as it was."""
    path = make(*RIGHT[name])
    policy, state = load_policy(path, dtype), torch.get_rng_state()
    refuse_different(policy, path, LONGEST)
    assert torch.equal(torch.get_rng_state(), state)
    packed, alone, *_ = _log_probs(policy, LONGEST)
    gaps = (packed - alone).abs()
    assert packed.std() > 0.3 and gaps.max() < BOUNDS[getattr(torch, dtype)][0] / 5
    assert dtype == "bfloat16" or gaps.mean() < 2e-6
    assert policy.causal_lm.config._attn_implementation == "packed"


@pytest.mark.parametrize("name", WRONG)
def test_unsupported_model_families_are_rejected_with_the_cause(make: Callable[..., str], name: str) -> None:
    kind, settings, said = WRONG[name]
    path = make(kind, settings)
    with pytest.raises(BadInput, match=f"cannot be trained here.*{said}") as caught:
        refuse_different(load_policy(path, "float32"), path, LONGEST)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma"])
def test_a_tied_head_is_published_under_its_name_in_the_folder(make: Callable[..., str], name: str) -> None:
    from safetensors import safe_open

    path = make(*RIGHT[name])
    policy = load_policy(path, "float32")
    with safe_open(f"{path}/model.safetensors", "pt") as file:
        assert policy.tied_name in file.keys()  # noqa: SIM118
        assert torch.equal(file.get_tensor(policy.tied_name), policy.head.weight)
    assert load_policy(make("LlamaConfig", GROUPED), "float32").tied_name is None


def test_rope_scaling_that_never_takes_effect_passes(make: Callable[..., str]) -> None:
    """LongRoPE within its original window is plain rope, and so is dynamic rope."""
    for name in ("longrope", "dynamic"):
        path = make(*WRONG[name][:2])
        refuse_different(load_policy(path, "float32"), path, 64)


class Doubled(torch.nn.Module):
    """A body whose last hidden states grow: a difference that no configuration tells of."""

    def __init__(self, body: Any):
        super().__init__()
        self.body = body

    def forward(self, **given: Any) -> Any:
        found = self.body(**given)
        found.last_hidden_state = found.last_hidden_state * 1.01
        return found


def test_a_difference_of_unknown_cause_is_rejected(make: Callable[..., str]) -> None:
    path = make(*RIGHT["qwen2"])
    policy = load_policy(path, "float32")
    policy.body = Doubled(policy.body)
    with pytest.raises(BadInput, match=r"by 0\.\d+ nats at most.*the cause is unknown"):
        refuse_different(policy, path)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_rank_checks_its_model_when_it_starts(make: Callable[..., str], checkpointing: bool) -> None:
    """`train` and `thinkless warmup` both start their ranks so; no setting turns it off."""
    conf = LearnerConf(gradient_checkpointing=checkpointing)
    worker = LearnerWorker(conf, ModelConf(), make("BloomConfig", WRONG["bloom"][1]), 0, 1.0, 10)
    with pytest.raises(BadInput, match="ALiBi"):
        worker.start(*worker.address(None), reference=False)
    # not closed: that would take their groups from the engines and learners that live in this process


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True, "temperature": 0.9, "top_p": 0.6}),
        ({"do_sample": False, "top_p": 0.6}, {}),
        ({"do_sample": True, "top_k": 7}, {"do_sample": True, "top_k": 7}),
    ],
    ids=["sampling meant", "greedy", "valid"],
)
def test_an_invalid_generation_config_does_not_prevent_saving(
    models: dict[str, str], tmp_path: Path, written: dict[str, Any], kept: dict[str, Any]
) -> None:
    """transformers loads them all, and refuses to save some: a run would end without its model."""
    shutil.copytree(models["tied"], tmp_path / "given")
    file = tmp_path / "given" / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [1, 3], **written}))
    load_policy(str(tmp_path / "given"), "float32").causal_lm.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    saved.pop("transformers_version")
    assert saved == {"eos_token_id": [1, 3], **kept}
