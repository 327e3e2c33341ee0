"""Which token ids end a response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conf.schema import ModelConf
from rollout.data.model_files import read_model_json


def end_tokens(tokenizer: Any, path: str | Path, conf: ModelConf) -> set[int]:
    """Ids that end a response: the tokenizer's end of sequence, those named in the model's generation_config.json and
    config.json, and the token with which the chat template closes an assistant's turn.

    Example: Gemma has `<eos>` and `<end_of_turn>`, Llama 3 `<|eot_id|>` among three, a base model with Qwen's template
    `<|endoftext|>` and `<|im_end|>`.
    """
    found = {int(tokenizer.eos_token_id)}
    for name in ("generation_config.json", "config.json"):
        named = (read_model_json(path, name, conf.revision) or {}).get("eos_token_id")
        found |= {one for one in (named if isinstance(named, list) else [named]) if isinstance(one, int)}
    return found | _turn_end(tokenizer)


def _turn_end(tokenizer: Any) -> set[int]:
    """The added token (special ones included) that the chat template writes right after an assistant's text, if any."""
    from jinja2 import TemplateError

    words = "thinkless"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": words}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:  # a template for questions only
        return set()
    _, there, rest = text.rpartition(words)
    ids = tokenizer.encode(rest.lstrip(), add_special_tokens=False) if there else []
    return {*ids[:1]} & {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
