"""What a plan needs to know of a model, from its config.json alone.

In: model.path (a folder, or a hub id) or model.random. Out: a `ModelShape`. Must not know: weights, torch, devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import Dtype, ModelConf
from learner.data.flops import Shape, shape_of
from learner.metrics.memory_plan import BYTES, kv_bytes, parameter_sizes
from learner.model.support import whole
from rollout.base.errors import BadInput
from rollout.data.model_files import read_model_json

NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
CACHE, TABLE = "the hub's cache", "a table of the presets' models"  # sources of what is on the hub
CHARACTERS = 264  # ids of the quickstart's tokenizer (`rollout.data.tokens.build_character_tokenizer`)
_R1_1P5B = {
    "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN_0P5B = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
_R1_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
_R1_32B = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
# Those of the presets and of docs/tutorial.md, as their config.json on the hub says, so that these can be planned where
# nothing was fetched.
KNOWN: dict[str, dict[str, Any]] = {
    "Vinnnf/Thinkless-1.5B-Warmup": _R1_1P5B,
    "Vinnnf/Thinkless-1.5B-RL-DeepScaleR": _R1_1P5B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _R1_1P5B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _R1_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": _R1_32B,
    "Qwen/Qwen2.5-0.5B-Instruct": _QWEN_0P5B,
    "Qwen/Qwen2.5-Math-1.5B-Instruct": {**_R1_1P5B, "tie_word_embeddings": True},
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    name: str
    source: str  # where its configuration was found
    config: Mapping[str, Any]
    shape: Shape
    dtype: Dtype
    parameters: int

    @classmethod
    def of(cls, name: str, source: str, config: Mapping[str, Any], dtype: Dtype) -> ModelShape:
        """Raises BadInput for a configuration without the needed fields, or of a model that is no plain decoder."""
        missing = [key for key in NEEDED if not isinstance(config.get(key), int)]
        if missing:
            raise BadInput(f"{name}: its config.json has no {', '.join(missing)}, which a plan is computed from")
        try:
            sizes = parameter_sizes(config)
        except ValueError as error:
            raise BadInput(f"{name}: {error}, so it cannot be planned") from error
        shape = shape_of(config)
        assert shape is not None
        return cls(name, source, config, shape, dtype, sum(sizes))

    @property
    def from_hub(self) -> bool:
        return self.source in (CACHE, TABLE)

    @property
    def weight_bytes(self) -> int:
        return BYTES[self.dtype] * self.parameters

    @property
    def read_bytes(self) -> int:
        """What an engine step reads of the weights: all but an embedding that is not the output head as well."""
        tied = self.config.get("tie_word_embeddings")
        return self.weight_bytes - (0 if tied else BYTES[self.dtype] * self.shape.vocab * self.shape.hidden)

    @property
    def kv_bytes(self) -> int:
        """Of a token in a sampler's cache."""
        return kv_bytes(self.config, self.dtype)


def model_shape(conf: ModelConf) -> ModelShape:
    """Raises BadInput where there is no configuration to be had."""
    if conf.path is None:
        random = conf.random
        if random is None:
            raise BadInput(
                "nothing to plan: choose an experiment (experiment=thinkless_1p5b), or give model.path=<model>"
            )
        config = {
            "model_type": "qwen2", "hidden_size": random.hidden_size, "num_hidden_layers": random.layers,
            "num_attention_heads": random.heads, "num_key_value_heads": random.kv_heads,
            "intermediate_size": random.ffn_size, "vocab_size": CHARACTERS, "tie_word_embeddings": True,
        }  # fmt: skip
        return ModelShape.of("model.random", "its settings", config, conf.dtype)
    name = f"model.path={conf.path}"
    if Path(conf.path).expanduser().is_dir():
        found = read_model_json(conf.path, "config.json", None)
        if found is None:
            raise BadInput(f"{name}: the folder has no config.json")
        return ModelShape.of(name, "its config.json", whole(found), conf.dtype)
    cached = _cached(conf.path, conf.revision)
    if cached is not None:
        return ModelShape.of(name, CACHE, whole(json.loads(cached.read_text())), conf.dtype)
    if conf.path in KNOWN:
        return ModelShape.of(name, TABLE, KNOWN[conf.path], conf.dtype)
    raise BadInput(
        f"{name}: neither a folder nor a model in the hub's cache: give a folder that holds its config.json (nothing "
        f"else of it is needed), or fetch that file: hf download {conf.path} config.json"
    )


def _cached(path: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError:  # not the form of a hub id: a folder that does not exist
        return None
    return Path(found) if isinstance(found, str) else None
