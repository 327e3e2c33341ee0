"""thinkless model check PATH: what will happen with a model, before anything is started.

In: a configuration with model.path. Out: findings as `thinkless doctor` prints them, or JSON; exit code 1 when it
cannot be trained here. Must not know: weights, Ray.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from conf.errors import BadConfig
from conf.schema import Config
from learner.metrics.memory_plan import learner_memory
from learner.model.support import context_length, read_config, unsupported
from orchestrator.base.waiting import waiting
from orchestrator.commands.preflight import located, refuse_unreadable
from orchestrator.doctor.findings import Finding, Told, note, problem
from orchestrator.plan.model_shape import ModelShape
from rollout.base.errors import BadInput
from rollout.data.chat_template import up_to_the_mode
from rollout.data.model_files import read_model_json
from rollout.data.tokens import (
    add_control_tokens,
    check_alignment,
    control_tokens,
    generation_prompt,
    load_tokenizer,
    prompt_text,
    templated,
    vocabulary_size,
)
from rollout.mode import names_of_tokens
from rollout.vllm_models import known

QUESTION = "What is 7+2?"
SAMPLED_BY = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a generation_config.json


def path_of(words: list[str]) -> tuple[str, list[str]]:
    """The model that `check PATH key=value ...` names, and the settings. Raises BadConfig."""
    names, settings = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if len(names) != 2 or names[0] != "check":
        raise BadConfig(f"thinkless model takes check <folder or hub id>, got {' '.join(words) or 'nothing'}")
    return names[1], settings


def command(conf: Config, options: Namespace) -> None:
    """Print all findings. Ends by SystemExit(1) when one of them is a problem."""
    told = Told(options.json)
    for area, one in findings(located(conf)):
        told.add(area, one, f"{area}: {one.text}")
    told.end("nothing prevents training it")


def findings(conf: Config) -> Iterator[tuple[str, Finding]]:
    """(area, finding). Raises BadInput where there is no model that can be read."""
    tokenizer = load_tokenizer(str(conf.model.path), conf.model)
    config = read_config(str(conf.model.path), conf.model.revision)
    if config is None:
        yield "class", problem(f"model.path={conf.model.path} has no config.json")
        return
    longest = conf.data.max_prompt_tokens + conf.rollout.max_response_tokens
    lacking = unsupported(config, longest, conf.rollout.max_model_len)
    yield from (("class", one) for one in _class(conf, config, lacking))
    try:
        refuse_unreadable(conf, "train")
    except BadInput as error:
        if not lacking:  # said already
            yield "settings", problem(str(error))
    yield from (("memory", one) for one in _memory(conf, config))
    yield from (("prompt", one) for one in _prompt(conf, tokenizer))
    try:
        yield from (("control tokens", one) for one in _tokens(conf, tokenizer, config))
        yield from (("ends", one) for one in _ends(conf, tokenizer))
    except BadInput as error:
        yield "control tokens", problem(str(error))


def _class(conf: Config, config: dict[str, Any], lacking: list[str]) -> Iterator[Finding]:
    """The learner's and the sampler's; lacking: what of it is not supported."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    kind, named = config.get("model_type"), (config.get("architectures") or [None])[0]
    learnt = CLASSES.get(str(kind))
    if learnt is None and not conf.model.trust_remote_code:
        yield problem(f"transformers has no causal language model of type {kind}")
    if lacking:
        yield problem(f"{named or learnt} cannot be trained: it has {'; '.join(lacking)}; see docs/models.md")
    elif learnt is not None:
        yield Finding(f"the learner trains it as transformers' {learnt}; measured again when it is loaded")
    with waiting("asking vLLM"):
        has = known(str(named or learnt))
    if has:
        yield Finding(f"the sampler, vLLM, has {named or learnt}")
    else:
        yield note(f"vLLM has no {named or learnt} of its own; it tries transformers' code when the sampler starts")
    positions, key = context_length(config)
    yield Finding(f"{positions:g} positions ({key}); rollout.max_model_len={conf.rollout.max_model_len}")
    tied = "also the output head (tied)" if config.get("tie_word_embeddings") else "with an output head of its own"
    yield Finding(f"{config.get('vocab_size')} embeddings, {tied}")


def _tokens(conf: Config, tokenizer: Any, config: dict[str, Any]) -> Iterator[Finding]:
    """What becomes of the control tokens."""
    there, rows = tokenizer.get_vocab(), config.get("vocab_size")
    control, new = add_control_tokens(tokenizer, conf.model)
    check_alignment(tokenizer, conf.model)
    ids = {
        conf.model.think_token: control.think,
        conf.model.think_end_token: control.think_end,
        **{name: control.id_of(mode) for mode, name in names_of_tokens(conf.model).items()},
    }
    for name, id in ids.items():
        what = "a token of its own" if name in there and id not in new else "new: the warm-up trains it"
        yield Finding(f"{name} is id {id}, {what}")
    if new and conf.warmup is None:
        yield note("without a warm-up (warmup.path=<pairs>) the model has never seen the new ones")
    needed = vocabulary_size(tokenizer)
    if isinstance(rows, int):
        grows = f"the embeddings grow from {rows} to {needed} rows" if needed > rows else "the embeddings have room"
        spare = f", {rows - needed} rows belong to no token" if needed < rows else ""
        yield Finding(f"the tokenizer has ids to {needed - 1}; {grows}{spare}")


def _prompt(conf: Config, tokenizer: Any) -> Iterator[Finding]:
    """The rendered prompt of an example."""
    whole, text = templated(tokenizer, QUESTION), prompt_text(tokenizer, QUESTION, conf.model)
    ids = generation_prompt(tokenizer, QUESTION, conf.model)
    yield Finding(f"{text!r}, {len(ids)} tokens, before the mode is sampled")
    removed = whole[len(up_to_the_mode(whole, conf.model)) :]
    if removed:
        yield note(f"the template begins the answer with {removed!r}, which is left out: the model chooses the mode")
    if "strftime_now" in str(tokenizer.chat_template):
        yield note(
            "the template writes today's date: prompts, and so a run that is resumed, differ from one day to the next; "
            "model.chat_template=<file> can have a fixed date"
        )
    if tokenizer.bos_token_id is not None:
        times, name = _beginnings(ids.tolist(), tokenizer.bos_token_id), tokenizer.bos_token
        if times > 1:
            yield note(f"the prompt begins with the beginning of sequence ({name}) {times} times")
        else:
            how = "begins" if times else "does not begin"
            yield Finding(f"the prompt {how} with the beginning of sequence ({name})")


def _beginnings(ids: list[int], bos: int) -> int:
    """How many ids `bos` a prompt begins with. (In Granite it closes turns, too.)"""
    return next((nth for nth, id in enumerate(ids) if id != bos), len(ids))


def _ends(conf: Config, tokenizer: Any) -> Iterator[Finding]:
    """What ends a response, and what of the model's own sampling is not used."""
    control = control_tokens(tokenizer, conf.model, conf.model.path)
    names = ", ".join(f"{tokenizer.convert_ids_to_tokens(one)} ({one})" for one in sorted(control.ends))
    yield Finding(f"a response ends with {names}")
    if tokenizer.pad_token_id is None:
        yield Finding("no padding token, and none is needed: sequences are packed")
    given = read_model_json(str(conf.model.path), "generation_config.json", conf.model.revision) or {}
    own = ", ".join(f"{key}={given[key]}" for key in SAMPLED_BY if given.get(key) is not None)
    if own:
        used = f"rollout.temperature={conf.rollout.temperature:g}, rollout.top_p={conf.rollout.top_p:g}"
        yield note(f"its generation_config.json samples with {own}; a run samples with {used}")


def _memory(conf: Config, config: dict[str, Any]) -> Iterator[Finding]:
    try:
        model = ModelShape.of(f"model.path={conf.model.path}", "its config.json", config, conf.model.dtype)
        rank = learner_memory(config, conf.learner, conf.model.dtype, conf.model.head_dtype, conf.algorithm.kl > 0)
    except (BadInput, ValueError) as error:
        yield note(f"not known: {error}")
        return
    yield Finding(
        f"{model.parameters / 1e9:.3g} B parameters, {model.weight_bytes / 1e9:.3g} GB in {conf.model.dtype.value}; "
        f"{model.kv_bytes:,} bytes of cache a token; a learner rank's peak is {rank.peak / 1e9:.3g} GB with "
        f"learner.ranks={conf.learner.ranks} learner.zero_stage={conf.learner.zero_stage} "
        f"learner.max_tokens={conf.learner.max_tokens} (thinkless plan has the rest)"
    )
