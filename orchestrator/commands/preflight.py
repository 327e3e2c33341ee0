"""Checks that model, warm-up pairs, reward function and a torch for GPUs exist and fit the settings, before anything is
started.

In: a configuration. Out: the same with absolute folders, or BadInput. Must not know: Ray, torch, what a command does.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.schema import Config, Device, Dtype
from learner.model.prepare_model import random_config
from learner.model.support import context_length, read_config, recurrent, unsupported
from orchestrator.base.record import readable
from orchestrator.base.waiting import waiting
from orchestrator.tracking.sinks import refuse_absent
from orchestrator.training.warmup_questions import refuse_no_questions
from rollout.base.errors import BadInput
from rollout.base.gpu import refuse_cpu_build
from rollout.base.load_function import load_function
from rollout.data.pairs import Pairs, load_pairs
from rollout.data.tokens import (
    add_control_tokens,
    build_character_tokenizer,
    check_alignment,
    generation_prompt,
    load_tokenizer,
    training_response,
)
from rollout.mode import names_of_tokens

PAIRS = 20  # of a warm-up that are looked at
DELTA_NETS = ("qwen3_5", "qwen3_next")  # what their model types begin with


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of the model."""

    config: dict[str, Any] | None  # config.json; None: there is none
    tokens: tuple[str, ...]  # texts that its tokenizer takes for control or special tokens


def located(conf: Config) -> Config:
    """`conf` with the folder of model.path and the file of model.chat_template as absolute paths, since other processes
    have other working directories. A hub id, or a path that does not exist, stays as it is."""
    named = {"path": conf.model.path, "chat_template": conf.model.chat_template}
    found: dict[str, Any] = {
        key: os.path.abspath(Path(name).expanduser())
        for key, name in named.items()
        if name is not None and not Path(name).is_absolute() and Path(name).expanduser().exists()
    }
    return replace(conf, model=replace(conf.model, **found))


def samples(conf: Config, command: str) -> bool:
    """Whether a command needs rollout workers."""
    return command != "warmup" or bool(conf.warmup and conf.warmup.evaluate_every)


def refuse_no_gpu(conf: Config, command: str) -> None:
    """BadInput for a part on a GPU whose processes, on this host, have a torch without CUDA.

    On a cluster that is joined their hosts and environments are others: there they refuse it themselves. How many GPUs
    there are Ray knows (`orchestrator.cluster.actors`). command: "train", "warmup" or "evaluate".
    """
    if conf.cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    parts = {"rollout.device": conf.rollout.device} if samples(conf, command) else {}
    parts |= {"learner.device": conf.learner.device} if command != "evaluate" else {}
    for setting, device in parts.items():
        if device is Device.gpu:
            refuse_cpu_build(setting)


def refuse_unreadable(
    conf: Config, command: str = "train", folder: Path | None = None, questions: Sequence[str] = ()
) -> Checked:
    """BadInput for a model, warm-up pairs or a reward function that cannot be used.

    command: "train", "warmup" or "evaluate"; folder: of the run that goes on, which may hold a model of its own;
    questions: the shortest to train on.
    """
    config, pairs = None, None
    if command == "train":
        refuse_absent(conf.tracker)
    if conf.reward.function is not None:
        load_function(conf.reward.function, "reward.function")
    if conf.warmup is not None and command != "evaluate":
        refuse_no_questions(conf, pairs := load_pairs(conf.warmup, conf.model))
    path = _kept_model(folder) or conf.model.path
    if path is not None:
        local = Path(path).expanduser()
        found = local.is_dir()
        with waiting("checking the model" if found else f"no folder {local.absolute()}: asking the hub for {path}"):
            tokenizer = load_tokenizer(path, conf.model)
            if found:
                _refuse_truncated(local)
            config = read_config(path, conf.model.revision)
        if config is not None:
            _refuse_unfit(config, conf, command, f"model.path={path}")
            _refuse_small_vocabulary(config, tokenizer, conf, path)
    elif conf.model.random is not None:
        config = random_config(conf.model.random)
        _refuse_unfit(config, conf, command, "model.random")
        with tempfile.TemporaryDirectory() as made:
            build_character_tokenizer(made, conf.model)
            tokenizer = load_tokenizer(made, conf.model)
            check_alignment(tokenizer, conf.model)
    else:
        return Checked(None, ())
    _refuse_long(conf, tokenizer, questions, pairs)
    return Checked(config, _tokens(conf, tokenizer))


def _tokens(conf: Config, tokenizer: Any) -> tuple[str, ...]:
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = [*names_of_tokens(conf.model).values(), conf.model.think_end_token, *special, tokenizer.eos_token]
    return tuple(dict.fromkeys(name for name in names if name))


def _refuse_long(conf: Config, tokenizer: Any, questions: Sequence[str], pairs: Pairs | None) -> None:
    """BadInput where no question to train on, or none of the first pairs, fits into its limit."""
    limit = conf.data.max_prompt_tokens
    lengths = [len(generation_prompt(tokenizer, question, conf.model)) for question in questions]
    if lengths and min(lengths) > limit:
        raise BadInput(
            f"data.max_prompt_tokens={limit}: the shortest prompt to train on has {min(lengths)} tokens; raise it"
        )
    if pairs is None:
        return
    control, _ = add_control_tokens(tokenizer, conf.model)
    shortest, limit = None, pairs.conf.max_tokens
    for place in range(PAIRS if pairs.size is None else min(PAIRS, pairs.size)):
        for pair in pairs.together(place):
            prompt = generation_prompt(tokenizer, pair.problem, conf.model)
            for mode, text in pair.answers(pairs.modes):
                length = len(prompt) + len(training_response(tokenizer, control, mode, text, conf.model))
                if length <= limit:
                    return
                shortest = min(length, shortest or length)
    raise BadInput(
        f"warmup.max_tokens={limit}: the shortest answer to the first {PAIRS} questions has {shortest} tokens with its "
        "prompt; raise it"
    )


def _kept_model(folder: Path | None) -> str | None:
    """The model that a run began with, in its folder or where its provenance.json says; model.path itself may be gone
    when a run was copied."""
    if folder is None:
        return None
    kept = [folder / "base"]
    kept.append(Path(str(readable(folder / "provenance.json").get("model") or folder / "base")))
    return next((str(model) for model in kept if (model / "config.json").is_file()), None)


def _refuse_unfit(config: dict[str, Any], conf: Config, command: str, name: str) -> None:
    """BadInput if the command asks of this model what its config.json rules out."""
    positions, key = context_length(config)
    learns, sampled = command in ("train", "warmup"), samples(conf, command)
    warms_up = conf.warmup is not None and learns
    wanted = {"warmup.max_tokens": conf.warmup.max_tokens} if conf.warmup is not None and warms_up else {}
    if sampled and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") != "1":
        wanted["rollout.max_model_len"] = conf.rollout.max_model_len
    for setting, length in wanted.items():
        if length > positions:
            what = f"{key}={config[key]}" if key in config else key
            raise BadInput(
                f"{name}: {setting}={length} is longer than the model's {positions:g} positions ({what}): set "
                f"{setting} to at most {positions:g}, or choose a model with more"
            )
    _refuse_indivisible(config, conf, learns, sampled, name)
    if sampled:
        _refuse_unsampled(config, conf, name)
    if not learns:
        return
    lengths = {"warmup.max_tokens": conf.warmup.max_tokens} if conf.warmup is not None else {}
    if command == "train":
        longest = conf.data.max_prompt_tokens + conf.rollout.max_response_tokens
        lengths["data.max_prompt_tokens + rollout.max_response_tokens"] = longest
    room = conf.rollout.max_model_len if learns and sampled else 0
    if found := unsupported(config, max(lengths.values()), room):
        limits = " and ".join(f"{setting}={length}" for setting, length in lengths.items())
        raise BadInput(
            f"{name}: this model (model type {config.get('model_type')}) cannot be trained here: it has "
            f"{'; '.join(found)}; docs/learner.md lists what can be trained ({limits})"
        )


def _refuse_indivisible(config: dict[str, Any], conf: Config, learns: bool, samples: bool, name: str) -> None:
    if learns and conf.learner.sequence_parallel > 1 and recurrent(config):
        raise BadInput(
            f"{name}: learner.sequence_parallel={conf.learner.sequence_parallel} divides sequences, but this model "
            f"(model type {config.get('model_type')}) has recurrent layers, which need whole ones: set it to 1"
        )
    if learns and conf.learner.compile_layers and recurrent(config):
        raise BadInput(
            f"{name}: learner.compile_layers=true is not supported for this model (model type "
            f"{config.get('model_type')}), which has recurrent layers: set it to false"
        )
    heads = config.get("num_attention_heads")
    kv_heads, ffn = config.get("num_key_value_heads") or heads, config.get("intermediate_size")
    if not isinstance(heads, int) or not isinstance(kv_heads, int):
        return
    parts = conf.rollout.tensor_parallel
    if samples and (heads % parts or (kv_heads % parts and parts % kv_heads) or (isinstance(ffn, int) and ffn % parts)):
        raise BadInput(
            f"{name}: rollout.tensor_parallel={parts} does not divide the model's {heads} attention heads, {kv_heads} "
            f"key heads and intermediate_size={ffn}: choose a number that does"
        )
    if learns and heads % conf.learner.sequence_parallel:
        raise BadInput(
            f"{name}: learner.sequence_parallel={conf.learner.sequence_parallel} does not divide the model's {heads} "
            "attention heads: choose a number that does"
        )


def _refuse_unsampled(config: dict[str, Any], conf: Config, name: str) -> None:
    """BadInput where vLLM has the model, but not with these settings or packages."""
    kind = str(config.get("model_type", ""))
    if not kind.startswith(DELTA_NETS):
        return
    if conf.rollout.device is Device.cpu and conf.model.dtype is Dtype.float32:
        raise BadInput(
            f"{name}: vLLM's CPU engine computes the gated delta nets of this model (model type {kind}) in bfloat16 "
            "only: set model.dtype=bfloat16"
        )
    joined = conf.cluster.address or os.environ.get("RAY_ADDRESS")  # whose environments are their own
    if kind.startswith("qwen3_5") and not joined and find_spec("torchvision") is None:
        raise BadInput(
            f"{name}: vLLM's code for this model (model type {kind}) imports torchvision, which is not installed; "
            "docs/models.md says which build"
        )


def _refuse_small_vocabulary(config: dict[str, Any], tokenizer: Any, conf: Config, path: str) -> None:
    """BadInput when prompts would hold ids without a row in the embeddings. New control tokens get theirs later."""
    rows = config.get("vocab_size")
    control, new = add_control_tokens(tokenizer, conf.model)
    used = {*control.modes.values(), control.think_end, control.eos}
    used |= {*generation_prompt(tokenizer, "What is 7+2?", conf.model).tolist()}
    beyond = sorted(used - {*new})
    if isinstance(rows, int) and beyond and beyond[-1] >= rows and not new:
        token = tokenizer.convert_ids_to_tokens(beyond[-1])
        raise BadInput(
            f"model.path={path}: its tokenizer has id {beyond[-1]} ({token}), but the model only {rows} embeddings "
            "(vocab_size): tokenizer and model do not belong together"
        )


def _refuse_truncated(folder: Path) -> None:
    """BadInput for a weights file that is absent, or shorter than its own header says."""
    from safetensors import SafetensorError, safe_open

    file = folder / "model.safetensors.index.json"
    try:
        named = json.loads(file.read_text())["weight_map"].values() if file.is_file() else []
        for file in sorted({*folder.glob("*.safetensors"), *(folder / name for name in named)}):
            safe_open(file, "np")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadInput(
            f"model.path={folder}: {file.name} is truncated or cannot be read ({error}); get the model again"
        ) from error
