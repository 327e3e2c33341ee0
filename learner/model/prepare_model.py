"""A model folder that both sampler and learner can load: control tokens in the tokenizer, rows for them in the
embeddings.

In: a Hugging Face folder or hub id, or the shape of a random model. Out: a folder, or the path itself if nothing was
missing. Must not know: training.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.schema import ModelConf, RandomModelConf
from learner.model.without_mlflow import without_mlflow
from rollout.base.errors import BadInput
from rollout.data.tokens import (
    add_control_tokens,
    build_character_tokenizer,
    check_alignment,
    control_tokens,
    load_tokenizer,
    save_tokenizer,
    vocabulary_size,
)


def random_config(shape: RandomModelConf) -> dict[str, Any]:
    """What a random model's config.json says of its shape."""
    return {
        "model_type": "qwen2",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.ffn_size,
        "max_position_embeddings": shape.max_position_embeddings,
    }


def random_model(folder: Path, shape: RandomModelConf, conf: ModelConf, seed: int) -> str:
    """Write a randomly initialised Qwen2-shaped model with the character-level tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    build_character_tokenizer(folder, conf)
    tokenizer = load_tokenizer(folder, conf)
    check_alignment(tokenizer, conf)
    config = Qwen2Config(
        **random_config(shape),
        vocab_size=len(tokenizer),
        initializer_range=shape.init_std,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _save(Qwen2ForCausalLM(config), folder)
    return str(folder)


def prepared_model(conf: ModelConf, folder: Path) -> str:
    """`conf.path` if its tokenizer has the control tokens (each one id), otherwise `folder` with a copy that has them.

    New embedding rows (and rows that the tokenizer did not use) start as the mean of the old ones. Raises BadInput as
    `rollout.data.tokens` and `learner.model.policy` do, and if adapters could not train those rows.
    """
    assert conf.path is not None
    tokenizer = load_tokenizer(conf.path, conf)
    # False for a model prepared here before, whose short token has been trained
    renamed = conf.short_token_from is not None and (
        conf.short_token not in load_tokenizer(conf.path, replace(conf, short_token_from=None)).get_vocab()
    )
    before = vocabulary_size(tokenizer)
    _, new = add_control_tokens(tokenizer, conf)
    check_alignment(tokenizer, conf)
    if not new and not renamed and conf.chat_template is None:
        return conf.path
    if conf.lora.rank and (new or renamed):
        added = ", ".join(tokenizer.convert_ids_to_tokens([*new] or [control_tokens(tokenizer, conf).short]))
        raise BadInput(
            f"model.lora.rank={conf.lora.rank} does not train the embeddings, and those of {added} are new in "
            f"{conf.path}: warm that model up first (`warmup`, without adapters), and train the warmed-up one"
        )
    import torch

    from learner.model.policy import load_policy

    policy = load_policy(conf.path, conf.dtype.value, conf.trust_remote_code, revision=conf.revision)
    causal_lm = policy.causal_lm
    rows = causal_lm.get_input_embeddings().weight.shape[0]
    if vocabulary_size(tokenizer) > rows:
        causal_lm.resize_token_embeddings(vocabulary_size(tokenizer), mean_resizing=False)
    fresh = list(new)
    if renamed:  # a spare token's row has never been trained
        fresh.append(control_tokens(tokenizer, conf).short)
    with torch.no_grad():
        for embedding in (causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()):
            weight = embedding.weight
            weight[fresh] = weight[: min(before, rows)].float().mean(0).to(weight.dtype)
    causal_lm.config.use_cache = True
    _save(causal_lm, folder)
    save_tokenizer(tokenizer, folder, conf)
    return str(folder)


def _save(causal_lm: Any, folder: Path) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # saving imports DeepSpeed, which reports on stdout that this process sees no GPU; the driver needs none
    logging.getLogger("DeepSpeed").addFilter(lambda record: "accelerator to CPU" not in record.getMessage())
    with without_mlflow():
        causal_lm.save_pretrained(folder)
