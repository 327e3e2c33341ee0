"""Which models can be trained here, judging by their config.json; docs/learner.md has the list.

In: a Hugging Face configuration as a mapping. Out: descriptions of unsupported features, and limits. Must not know:
torch, weights, a run's settings. `learner.model.parity` measures what this file only reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rollout.data.model_files import read_model_json

Config = Mapping[str, Any]

LENGTHS = (  # keys in which vLLM looks for the number of positions (`derive_max_model_len_and_key`, vLLM 0.32)
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
UNSCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}  # `factor` is included
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ATTENTION = {"full_attention", "sliding_attention"}  # layer types that packed attention supports
SEPARATED = {"lfm2", "qwen3_5", "qwen3_5_text", "qwen3_next", "mamba2"}  # `learner.model.recurrent` knows their layers
STATEFUL = ("mamba", "falcon_mamba", "rwkv", "recurrent_gemma", "jamba", "zamba", "bamba", "nemotron_h", "lfm2",
            "qwen3_next", "qwen3_5", "granitemoehybrid", "falcon_h1", "plamo2", "kimi_linear")  # fmt: skip
ALIBI = {"bloom", "mpt"}
SAMPLED_OTHERWISE = {"apertus"}  # measured with tiny models (vLLM 0.32, transformers 5.19)
UNPACKED = {"falcon", "gptj", "codegen", "mpt", "bloom", "stablelm", "nemotron"}  # as transformers 5.19 has them


def read_config(path: str, revision: str | None = None) -> dict[str, Any] | None:
    """The config.json of a model folder or hub id, with its `text_config` merged in; None if there is none.

    Raises BadInput if it is not a JSON object.
    """
    config = read_model_json(path, "config.json", revision)
    return None if config is None else whole(config)


def whole(config: Config) -> dict[str, Any]:
    """A configuration in which the language model's part, if any, is not nested."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def context_length(config: Config) -> tuple[float, str]:
    """(positions, the key they are from), as vLLM derives its largest max_model_len; (inf, "") without such a key."""
    found = [(config[key], key) for key in LENGTHS if isinstance(config.get(key), int | float)]
    length, key = min(found, default=(math.inf, ""), key=lambda one: one[0])
    if config.get("model_max_length"):
        length, key = config["model_max_length"], "model_max_length"
    if "gemma3" in str(config.get("model_type", "")):
        return length, key
    for rope in _ropes(config):
        factor = rope.get("factor")
        if _rope_type(rope) not in UNSCALED and isinstance(factor, int | float):
            return length * factor, f"{key} x the rope's factor {factor:g}"
    return length, key


def unsupported(config: Config, longest: int, room: int = 0) -> list[str]:
    """What the learner would compute wrongly, or the sampler load wrongly.

    longest: tokens of the longest training sequence; room: rollout.max_model_len, by which vLLM chooses
    LongRoPE's factors; 0 if nothing samples.
    """
    kind = str(config.get("model_type", ""))
    found = []
    if any(isinstance(config.get(key), int | list) and config[key] not in (0, 1, []) for key in EXPERTS):
        found.append("mixture-of-experts layers, whose weights cannot be synced to the sampler")
    if kind in SAMPLED_OTHERWISE:
        found.append("log-probs in vLLM that differ from those in transformers")
    layers = config.get("num_hidden_layers")
    if config.get("use_sliding_window") and config.get("max_window_layers", layers) != layers:
        found.append("an attention window in some of its layers only (max_window_layers), which vLLM does not take")
    window = config.get("sliding_window")
    if kind == "cohere2" and isinstance(window, int) and longest > window:
        found.append(
            "an attention window that vLLM makes one token wider than transformers, for sequences longer than "
            f"{window} tokens (room here for {longest})"
        )
    if kind == "gpt_oss":
        found.append("attention sinks")
    others = sorted({*(config.get("layer_types") or [])} - ATTENTION)
    if (others or kind.startswith(STATEFUL)) and kind not in SEPARATED:
        names = f" ({', '.join(others)})" if others else ""
        found.append(f"recurrent or convolution layers{names}, through which packed sequences leak into each other")
    if kind in ALIBI or config.get("alibi"):
        found.append("ALiBi, which treats a packed row as one sequence")
    if kind in UNPACKED:
        found.append("attention layers in transformers that accept no packed rows")
    for rope in _ropes(config):
        if scaled := _scaled_apart(config, rope):
            found.append(
                f"rotary embeddings (longrope) with {scaled}, by which vLLM and transformers scale differently"
            )
        limit = _rope_switches_at(config, rope)
        if limit is not None and max(longest, room) > limit:
            found.append(
                f"rotary embeddings ({_rope_type(rope)}) that change for a whole packed row if one of its sequences "
                f"is longer than {limit} tokens (room here for {max(longest, room)})"
            )
    return list(dict.fromkeys(found))


def recurrent(config: Config) -> bool:
    """Whether it has layers with a state along the sequence, which need whole sequences on one rank."""
    return str(config.get("model_type", "")) in SEPARATED


def _ropes(config: Config) -> list[Config]:
    """Rotary parameters, one mapping for each kind of layer that has its own."""
    given = config.get("rope_scaling") or config.get("rope_parameters")  # as transformers reads them
    if not isinstance(given, Mapping):
        return []
    nested = [one for one in given.values() if isinstance(one, Mapping)]
    return nested or [given]


def _rope_type(rope: Config) -> str:
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    return "longrope" if kind == "su" else kind


def _rope_switches_at(config: Config, rope: Config) -> int | None:
    """The longest sequence up to which these rotary embeddings depend only on a token's own position."""
    kind = _rope_type(rope)
    if kind not in ("longrope", "dynamic"):
        return None
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    limit = original or config.get("max_position_embeddings")
    return int(limit) if isinstance(limit, int | float) else None


def _scaled_apart(config: Config, rope: Config) -> str:
    """LongRoPE's keys for the size of its sines that only one of the two takes: transformers attention_factor and
    factor, vLLM short_mscale and long_mscale. Without any, both derive it from the positions and the original ones."""
    if _rope_type(rope) != "longrope":
        return ""
    found = [key for key in ("attention_factor", "short_mscale", "long_mscale") if rope.get(key) is not None]
    original, positions = _rope_switches_at(config, rope), config.get("max_position_embeddings")
    factor = rope.get("factor")
    if factor is not None and original and positions and factor != positions / original:
        found.append(f"factor={factor} instead of {positions / original:g}")
    return ", ".join(found)
