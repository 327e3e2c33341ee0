"""Chat templates that begin the answer themselves: the control token has to come first, since it chooses the mode.

In: what a template writes up to where the answer begins, or the template itself (Jinja). Out: the same without a think
token that opens the answer (R1: `<think>` and a line end), one that ends thinking (DeepSeek-V3.1: `</think>`), or both
(Qwen3 without thinking: `<think></think>`). Must not know: tokenizers, ids.
"""

from __future__ import annotations

import re

from conf.schema import ModelConf
from rollout.base.errors import BadInput


def up_to_the_mode(text: str, conf: ModelConf) -> str:
    """`text` without the think tokens at its end, and the spaces behind them."""
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


def refuse_thinking(begun: str, conf: ModelConf) -> None:
    """BadInput when `begun`, what a template writes between the question and the mode, holds a think token."""
    if token := next((name for name in (*_openers(conf), *_closers(conf)) if name in begun), None):
        raise BadInput(
            f"the chat template begins the answer with {begun!r}: {token} comes before the mode is chosen; give a "
            "template that ends where the answer begins as model.chat_template=<file>"
        )


def _openers(conf: ModelConf) -> list[str]:
    return list(dict.fromkeys((conf.think_token, "<think>")))


def _closers(conf: ModelConf) -> list[str]:
    return list(dict.fromkeys((conf.think_end_token, "</think>")))
