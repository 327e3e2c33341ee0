r"""The thinking in a text that a model or a data set gives as an answer.

In: text with or without a think block. Out: thinking and answer, both as written. Must not know: control tokens of the
model that is trained, columns, files.

    <think>5+5=10</think>\boxed{10}    closed
    5+5=10</think>\boxed{10}           opened by the chat template (DeepSeek-R1): the text begins within it
    <think>\n\n</think>\n\n\boxed{10}  empty, as Qwen3 writes it where thinking is off: there is none
    <|begin_of_thought|> ... <|end_of_thought|> <|begin_of_solution|> ... <|end_of_solution|>  OpenThoughts-114k
"""

from __future__ import annotations

import re

OPEN, CLOSE, SHORT = "<think>", "</think>", "<short>"
_OPEN_THOUGHTS = re.compile(
    r"\s*<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>\s*)?\Z",
    re.DOTALL,
)


class NeverClosed(ValueError):
    """Thinking begins, and does not end."""


def thinking_and_answer(text: str, reasoning: str | None = None) -> tuple[str | None, str]:
    r"""(thinking, answer); thinking is None where there is none, or nothing but spaces.

    reasoning: what an endpoint returned apart from the text (`reasoning_content`). "<short>" before an answer is taken
    off. Example: "<think>\nhm\n</think>\n\n4" is ("\nhm\n", "\n\n4"). Raises NeverClosed.
    """
    if reasoning is not None and reasoning.strip():
        return f"\n{reasoning.strip()}\n", f"\n\n{text.strip()}"
    if found := _OPEN_THOUGHTS.match(text):
        return f"\n{found[1].strip()}\n", f"\n\n{found[2].strip()}"
    begun = text.lstrip()
    opened = begun.startswith(OPEN)
    thinking, closed, answer = begun.removeprefix(OPEN).partition(CLOSE)
    if closed:
        return (thinking, answer) if thinking.strip() else (None, answer.strip())
    if opened:
        raise NeverClosed(f"thinking is never closed by {CLOSE}")
    return None, begun.removeprefix(SHORT).strip()
