"""Which columns hold question, gold answer and level, for the layouts of public data sets, verl, TRL and OpenRLHF.

In: a data set's column names and rows. Out: a row's question and answer as published; a chat is reduced to its one
question. Must not know: files, how answers are normalised or compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.choices import SystemTurn
from conf.schema import DataConf
from rollout.base.errors import BadInput
from rollout.data.dataset_rows import HubSet, refuse_absent_column
from rollout.data.files import Row, listed
from rollout.data.golds import Unusable, of_solution

CHATS = ("messages", "conversations")  # of whole conversations, which may contain the answer
SOLUTIONS = ("solution", "completion")  # worked solutions, which contain the answer
PROBLEM_COLUMNS = ("problem", "question", "prompt", "input", *CHATS)
ANSWER_COLUMNS = (
    "answer",
    "final_answer",
    "reward_model.ground_truth",
    "ground_truth",
    "solution",
    "label",
    "completion",
)
LEVEL_COLUMNS = ("level", "difficulty")
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names


@dataclass(frozen=True, slots=True)
class Layout:
    """Column names; "column.field" is a field of an object in a column, "" means none."""

    problem: str
    answer: str
    level: str

    def of(self, row: Row, system: SystemTurn | None) -> Mapping[str, Any]:
        """{"problem", "answer", "level"} of a row. Raises Unusable for a chat that is not one question."""
        problem = question(field(row, self.problem), system, self.problem)
        gold = field(row, self.answer)
        if self.answer in (*SOLUTIONS, *CHATS):
            gold = of_solution(said_by_assistant(gold) if is_chat(gold) else gold)
        return {"problem": problem, "answer": gold, "level": field(row, self.level)}

    @property
    def names(self) -> list[str]:
        return [name for name in (self.problem, self.answer, self.level) if name]


def layout_of(conf: DataConf, present: Sequence[str], source: str, pinned: HubSet) -> Layout:
    """The columns that `conf` or the pinned set names, otherwise the first present of the usual ones.

    present: see `rollout.data.files.Rows.columns`. Raises BadInput with the existing columns.
    """

    def column(what: str, given: str | None, usual: Sequence[str]) -> str:
        key = f"data.{what}_column"
        if given is not None:
            refuse_absent_column(given, present, source, key)
            return given
        if found := next((name for name in usual if name in present), None):
            return found
        raise BadInput(
            f"{source} has no column named {' or '.join(usual)}; its columns are {listed(present)}: name one with {key}"
        )

    questions = [name for name in PROBLEM_COLUMNS if name != "input" or "instruction" not in present]
    problem = column("problem", conf.problem_column or pinned.problem_column, questions)
    answers = (*ANSWER_COLUMNS, problem) if problem in CHATS else ANSWER_COLUMNS
    answer = column("answer", conf.answer_column or pinned.answer_column, answers)
    if given := conf.level_column or pinned.level_column:
        level = column("level", given, ())
    else:
        level = next((name for name in LEVEL_COLUMNS if name in present), "")
    return Layout(problem, answer, level)


def field(row: Row, name: str) -> Any:
    """row["reward_model"]["ground_truth"] for "reward_model.ground_truth"; None if absent."""
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


# ---- chats: a list of turns, each with a role and a content ----


def is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(turn, Mapping) and {"role", "from"} & set(turn) for turn in value)
    )


def question(value: Any, system: SystemTurn | None, column: str) -> Any:
    """The text of a chat's only user turn; anything else unchanged. Only in `CHATS` an answer may follow."""
    if not is_chat(value):
        return value
    turns = [(_role(turn), _content(turn)) for turn in value]
    before = ""
    if turns[0][0] == "system":
        before = turns.pop(0)[1].strip()
        if before and system is None:
            raise Unusable(
                "problem has a system turn: choose data.system_turn=drop, or prepend to put it before the question"
            )
    roles = [role for role, _ in turns]
    if roles.count("user") > 1:
        raise Unusable("problem has several user turns, not one question")
    if roles != ["user"] and (roles != ["user", "assistant"] or column not in CHATS):
        raise Unusable(f"problem has the turns {' '.join(roles) or 'system'}, not one question")
    text = turns[0][1]
    return f"{before}\n\n{text}" if before and system is SystemTurn.prepend else text


def said_by_assistant(chat: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last assistant turn."""
    said = [_content(turn) for turn in chat if _role(turn) == "assistant"]
    if not said:
        raise Unusable("answer is missing: no assistant turn")
    return said[-1]


def _role(turn: Mapping[str, Any]) -> str:
    role = str(turn.get("role") or turn.get("from"))
    return ROLES.get(role, role)


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Unusable("problem has a turn that is not text")
    return content
