"""Ready-made answers as public data sets lay them out, for a warm-up.

In: a data set's column names and rows. Out: of a row, its problem, long and short answer; None for one that it does not
have. Must not know: files, control tokens, batches.

    problem, deepseek_reasoning, deepseek_solution   OpenThoughts-114k (metadata) and its kin: a long answer
    instruction, output (input)                      Hybrid-OpenThoughts2-1M-1.5B: `output` begins with <think> or
                                                     <short>; without either it is long if it holds a think block
    messages, conversations                          one question and its answer, long if it holds a think block
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conf.choices import SystemTurn
from rollout.data.files import Row
from rollout.data.golds import Unusable, text_of
from rollout.data.layouts import CHATS, is_chat, question, said_by_assistant
from rollout.data.think_block import CLOSE, NeverClosed, thinking_and_answer

# problem, think, short, modes between: texts, None, or whatever a row holds in their place
Texts = tuple[object, object, object, *tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class PairLayout:
    names: tuple[str, ...]  # columns to read
    of: Callable[[Row], Texts]  # raises Unusable


def pair_layout(present: Sequence[str], think_end: str = CLOSE) -> PairLayout | None:
    """The first that fits the columns `present`; None: none does. think_end: the token to close thinking with."""

    def sides(problem: object, text: object, reasoning: object = None) -> Texts:
        try:
            apart = None if reasoning is None else text_of(reasoning, "reasoning")
            thinking, answer = thinking_and_answer(text_of(text, "answer"), apart)
        except NeverClosed as error:
            raise Unusable(str(error)) from error
        return (problem, None, answer) if thinking is None else (problem, f"{thinking}{think_end}{answer}", None)

    asked = next((name for name in ("problem", "question", "instruction_seed") if name in present), None)
    reasoned = next((name for name in ("deepseek_reasoning", "reasoning") if name in present), None)
    solved = next((name for name in ("deepseek_solution", "solution") if name in present), None)
    if asked and reasoned and solved:
        return PairLayout((asked, reasoned, solved), lambda row: sides(row[asked], row[solved], row[reasoned]))
    if "instruction" in present and "output" in present:
        names = tuple(name for name in ("instruction", "input", "output") if name in present)
        return PairLayout(names, lambda row: sides(_instruction(row), row["output"]))
    if chat := next((name for name in CHATS if name in present), None):

        def turns(row: Row) -> Texts:
            if not is_chat(row[chat]):
                raise Unusable(f"{chat} is no list of turns")
            # a system turn says how its own model is to think: the control tokens say it here
            problem = question(row[chat], SystemTurn.drop, chat)
            last = row[chat][-1]
            return sides(problem, said_by_assistant(row[chat]), last.get("reasoning_content") or None)

        return PairLayout((chat,), turns)
    return None


def _instruction(row: Row) -> object:
    """Alpaca's `input`, what an instruction is about, stands behind it."""
    about = row.get("input")
    return f"{row['instruction']}\n\n{about}" if isinstance(about, str) and about.strip() else row["instruction"]
