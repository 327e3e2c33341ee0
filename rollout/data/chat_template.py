"""Chat templates that begin the answer themselves: the control token has to come first, since it chooses the mode.

In: what a template writes up to where the answer begins, or the template itself (Jinja). Out: the same without a think
token that opens the answer (R1: `<think>` and a line end), one that ends thinking (DeepSeek-V3.1: `</think>`), or both
(Qwen3 without thinking: `<think></think>`), or the short token. Must not know: tokenizers, ids.
"""

from __future__ import annotations

import re

from conf.schema import ModelConf
from rollout.base.errors import BadInput
from rollout.mode import names_of_tokens

MARK = "tokens_of_modes"  # of a `served_template`


def up_to_the_mode(text: str, conf: ModelConf) -> str:
    """`text` without the control tokens at its end, and the spaces behind them."""
    opened, closed = ("|".join(map(re.escape, names)) for names in (_openers(conf), _closers(conf)))
    return re.sub(rf"(?:(?:{opened})\s*(?:{closed})?|{closed})\s*\Z", "", text)


def template_up_to_the_mode(template: str, conf: ModelConf) -> str:
    """A Jinja template whose generation prompt is `up_to_the_mode` of that of `template`; all else is the same."""
    names = [*_closers(conf), *_openers(conf)]
    return (
        f"{{% set text +%}}{template}{{%+ endset %}}{{% set prompt = namespace(text=text) %}}"
        f"{{% for name in {names!r} if add_generation_prompt %}}{{% if prompt.text.rstrip().endswith(name) %}}"
        "{% set prompt.text = prompt.text.rstrip()[:-(name|length)] %}{% endif %}{% endfor %}{{ prompt.text }}"
    )


def served_template(template: str, conf: ModelConf) -> str:
    """What an exported model is served with: `template_up_to_the_mode`, and behind it the control token of the mode
    that a client asks for, in chat_template_kwargs: `mode` "auto" (the model chooses; the default) or a mode's name,
    or `enable_thinking` true or false, as clients of Qwen3 give it. Of `served_template` itself: unchanged.
    """
    if MARK in template:
        return template
    longest_first = reversed(names_of_tokens(conf).items())
    tokens = {"auto": "", **{mode.name: name for mode, name in longest_first}}
    *others, last = tokens
    asked = (
        "mode if mode is defined and mode is not none else 'auto' if enable_thinking is not defined or "
        "enable_thinking is none else 'think' if enable_thinking else 'short'"
    )
    refusal = f"'mode must be {', '.join(others)} or {last}, got ' ~ asked"
    return (
        f"{{% set {MARK} = {tokens!r} %}}{{% set end_of_thinking = {conf.think_end_token!r} %}}"
        f"{{% set asked = {asked} %}}{{% if asked not in {MARK} %}}{{{{ raise_exception({refusal}) }}}}{{% endif %}}"
        f"{template_up_to_the_mode(template, conf)}{{% if add_generation_prompt %}}{{{{ {MARK}[asked] }}}}{{% endif %}}"
    )


def refuse_thinking(begun: str, conf: ModelConf) -> None:
    """BadInput when `begun`, what a template writes between the question and the mode, holds a control token."""
    if token := next((name for name in (*_openers(conf), *_closers(conf)) if name in begun), None):
        raise BadInput(
            f"the chat template begins the answer with {begun!r}: {token} comes before the mode is chosen; give a "
            "template that ends where the answer begins as model.chat_template=<file>"
        )


def _openers(conf: ModelConf) -> list[str]:
    return list(dict.fromkeys((conf.think_token, "<think>", *names_of_tokens(conf).values())))


def _closers(conf: ModelConf) -> list[str]:
    return list(dict.fromkeys((conf.think_end_token, "</think>")))
