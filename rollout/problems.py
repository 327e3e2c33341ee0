"""Problems with their gold answers, from a local file or a pinned hub data set.

In: `DataConf`. Out: `LoadedProblems`: the usable rows as `Problem`s, the count of unusable rows by reason, a hash.
A row that cannot be used is skipped and counted; anything a person can mend is `BadInput`.
Must not know: tokenizers, prompts, how answers are graded.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import DataConf, ValidationConf
from rollout.errors import BadInput
from rollout.function import load_function
from rollout.reading import (
    HUB_SETS,
    HubSet,
    Row,
    first_line,
    hub_rows,
    is_hub_name,
    listed,
    nearest,
    read_rows,
)

PROBLEM_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")
LEVEL_COLUMNS = ("level", "difficulty")
SKIPPED = "skipped by the adapter"


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer. Example: uid "gsm8k/train/17" is row 17, counted from 0."""

    uid: str  # source and row
    problem: str
    answer: str | tuple[str, ...]  # a tuple: any may match, or all must be given (all_answers)
    source: str
    level: str | None = None
    all_answers: bool = False


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """The usable rows of a data set, in its order."""

    problems: tuple[Problem, ...]
    source: str
    rows: int  # rows read; len(problems) + sum(unusable.values())
    unusable: Mapping[str, int]  # reason -> rows
    sha256: str  # of the usable content (see content_hash)

    def summary(self) -> str:
        """One line for the console."""
        return f"{self.source}: {len(self.problems)} problems" + _reasons(self.unusable, self.rows)


class _Unusable(Exception):
    """Why one row cannot be used. Raised while reading a row, caught and counted in `load_problems` only."""


def load_problems(conf: DataConf) -> LoadedProblems:
    """Read `conf.path`: a local .jsonl/.json/.parquet file, or the name of a hub data set.

    Raises BadInput: file absent, empty, not JSON (with the line), of unknown kind; column lacking (with the nearest);
    hub unreachable; adapter missing or failing (with the row); share of unusable rows above `conf.max_unusable`.
    """
    if not conf.path:
        raise BadInput("data.path is not set: give a .jsonl/.json/.parquet file or a hub data set's name")
    if is_hub_name(conf.path):
        rows, source, stem, pinned = *hub_rows(conf), HUB_SETS.get(conf.path)
    else:
        path = Path(conf.path).expanduser().absolute()
        rows, source, pinned = read_rows(path, "data.path"), f"{path.parent.name}/{path.stem}", None
        stem = source
    extract = _adapted(conf, source) if conf.adapter else _columns(conf, rows, source, pinned)

    problems: list[Problem] = []
    unusable: Counter[str] = Counter()
    for index, row in enumerate(rows):
        try:
            found = extract(index, row)
            all_answers = bool(found.get("all_answers", conf.all_answers))
            problems.append(
                Problem(
                    uid=f"{stem}/{found.get('uid', index)}",
                    problem=_text(found["problem"], "problem"),
                    answer=_answer(found["answer"], all_answers),
                    source=source,
                    level=_level(found.get("level")),
                    all_answers=all_answers,
                )
            )
        except _Unusable as reason:
            unusable[str(reason)] += 1

    faulty = sum(unusable.values()) - unusable[SKIPPED]  # what an adapter skips is a choice, not a fault
    if not problems or faulty > conf.max_unusable * len(rows):
        limit = f"more than data.max_unusable={conf.max_unusable:g}" if problems else "none is left"
        raise BadInput(
            f"{source}: {limit}{_reasons(+unusable, len(rows))}; "
            "check data.problem_column and data.answer_column, or clean the file"
        )
    _refuse_duplicates(problems, source)
    return LoadedProblems(tuple(problems), source, len(rows), dict(+unusable), content_hash(problems))


def content_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 (hex) of what is asked and graded, in order; neither file format nor folder enters."""
    digest = hashlib.sha256()
    for p in problems:
        digest.update(json.dumps([p.problem, p.answer, p.level, p.all_answers]).encode() + b"\n")
    return digest.hexdigest()


def split_validation(problems: Sequence[Problem], size: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, held out): `size` problems drawn by `seed`, both in the given order.

    No question stands in both: rows that repeat a held-out question's text are left out of training too.
    """
    if not 0 <= size < len(problems):
        raise BadInput(f"validation.size={size} must be at least 0 and below the {len(problems)} problems of data.path")
    held = set(random.Random(f"hold-out/{seed}").sample(range(len(problems)), size))
    texts = {problems[i].problem for i in held}
    training = [p for p in problems if p.problem not in texts]
    if not training:
        raise BadInput(f"validation.size={size} leaves no training problem: all repeat a held-out question")
    return training, [problems[i] for i in sorted(held)]


def validation_data(validation: ValidationConf, data: DataConf) -> DataConf:
    """How to load `validation.path`: columns, adapter and limits as for `data`, everything else its own."""
    return replace(
        data,
        path=validation.path,
        revision=validation.revision,
        subset=validation.subset,
        split=validation.split,
        shard=0,
        num_shards=1,
    )


# ---- from rows to problems ----

Extract = Callable[[int, Row], Mapping[str, Any]]  # (row number, row) -> problem, answer, level?, uid?, all_answers?


def _columns(conf: DataConf, rows: Sequence[Row], source: str, pinned: HubSet | None) -> Extract:
    present = list(dict.fromkeys(name for row in rows for name in row))

    def choose(what: str, given: str | None, pinned_name: str | None, names: Sequence[str]) -> str:
        return _column(given or pinned_name, names, present, what, source)

    problem = choose("problem", conf.problem_column, pinned.problem_column if pinned else None, PROBLEM_COLUMNS)
    answer = choose("answer", conf.answer_column, pinned.answer_column if pinned else None, ANSWER_COLUMNS)
    level = next((name for name in LEVEL_COLUMNS if name in present), "")
    if conf.level_column or (pinned and pinned.level_column):
        level = choose("level", conf.level_column, pinned.level_column if pinned else None, ())

    def extract(index: int, row: Row) -> Mapping[str, Any]:
        gold = row.get(answer)
        if answer == "solution" and isinstance(gold, str):
            gold = _boxed(gold) if "####" not in gold else gold
        return {"problem": row.get(problem), "answer": gold, "level": row.get(level)}

    return extract


def _column(given: str | None, names: Sequence[str], present: Sequence[str], what: str, source: str) -> str:
    if given is None:
        for name in names:
            if name in present:
                return name
        raise BadInput(
            f"{source} has no column named {' or '.join(names)}; its columns are {listed(present)}: "
            f"name one with data.{what}_column"
        )
    if given not in present:
        raise BadInput(
            f"{source} has no column {given!r} (data.{what}_column); its columns are {listed(present)}"
            f"{nearest(given, present)}"
        )
    return given


def _adapted(conf: DataConf, source: str) -> Extract:
    adapter = load_function(str(conf.adapter), "data.adapter")

    def extract(index: int, row: Row) -> Mapping[str, Any]:
        where = f"{source}, row {index}: data.adapter={conf.adapter}"
        try:
            found = adapter(dict(row))
        except Exception as error:
            raise BadInput(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
        if found is None:
            raise _Unusable(SKIPPED)
        if not isinstance(found, Mapping) or not {"problem", "answer"} <= set(found):
            raise BadInput(f"{where} must return a dict with problem and answer, or None; got {found!r:.80}")
        return found

    return extract


def _text(value: Any, what: str) -> str:
    if value is None:
        raise _Unusable(f"{what} is null")
    if not isinstance(value, str):
        raise _Unusable(f"{what} is a {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise _Unusable(f"{what} is empty")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _Unusable(f"{what} holds half a surrogate pair")
    return text


def _answer(value: Any, all_answers: bool) -> str | tuple[str, ...]:
    """27.0 -> "27"; "so 5+5 #### 1,010" -> "1010"; ["9.6\\n"] -> "9.6"; ["1", "2"] -> ("1", "2")."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise _Unusable("answer is not a finite number")
        return str(int(value)) if value == int(value) else np.format_float_positional(float(value), trim="-")
    if isinstance(value, list | tuple):
        members: dict[str, None] = {}  # a set that keeps the order
        for member in value:
            if isinstance(member, list | tuple):
                raise _Unusable("answer is a list of lists")
            try:
                members[str(_answer(member, all_answers))] = None
            except _Unusable:
                if all_answers:  # a set of answers with a hole can never be given in full
                    raise
        if not members:
            raise _Unusable("answer is an empty list")
        return tuple(members) if len(members) > 1 else next(iter(members))
    text = _text(value, "answer")
    if "####" in text:
        text = _text(text.rpartition("####")[2], "answer")
        if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):  # always one number there: no list of answers
            text = text.replace(",", "")
    return text


def _level(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else None
    return None if value is None else str(value).strip() or None


def _boxed(solution: str) -> str:
    r"""Contents of the last \boxed{...} of a worked solution."""
    start = solution.rfind("\\boxed{")
    depth = 0
    for end in range(start + 6, len(solution)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[start + 7 : end]
    raise _Unusable("solution has no \\boxed{} answer")


def _refuse_duplicates(problems: Sequence[Problem], source: str) -> None:
    uid, count = Counter(p.uid for p in problems).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{source}: {count} rows have the uid {uid!r}; the adapter must give each row its own")


# ---- words ----


def _reasons(unusable: Mapping[str, int], rows: int) -> str:
    if not (total := sum(unusable.values())):
        return ""
    parts = ", ".join(f"{reason}: {count}" for reason, count in unusable.items())
    return f", {total} of {rows} rows not usable ({parts})"
