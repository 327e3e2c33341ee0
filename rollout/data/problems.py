"""Problems with their gold answers, from files or a pinned hub data set.

In: `DataConf`. Out: `LoadedProblems`: the usable rows as `Problem`s, the count of unusable rows by reason, a hash.
A row that cannot be used is skipped and counted; anything the user can fix is `BadInput`.
Must not know: tokenizers, prompts, how answers are graded.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conf.schema import DataConf, ValidationConf
from rollout.base.errors import BadInput
from rollout.base.load_function import load_function
from rollout.data.dataset_rows import Part, read_parts
from rollout.data.files import Row, first_line, listed
from rollout.data.golds import Unusable, gold_of, text_of
from rollout.data.layouts import layout_of

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


def load_problems(conf: DataConf, key: str = "data") -> LoadedProblems:
    """Read `conf.path` (see `rollout.data.dataset_rows.read_parts`); `key` is the section's name, for messages.

    Raises BadInput: file missing, empty or malformed (with the line); column missing (with the nearest); hub
    unreachable; adapter missing or failing (with the row); share of unusable rows above `conf.max_unusable`.
    """
    parts = read_parts(conf, key)
    sources = list(dict.fromkeys(part.source for part in parts))
    source = listed(sources[:3]) + (f" and {len(sources) - 3} more" if len(sources) > 3 else "")
    missing = {text.strip().casefold() for text in conf.unusable_answers}
    problems: list[Problem] = []
    unusable: Counter[str] = Counter()
    read = 0
    for part in parts:
        extract, rows = _adapted(conf, part) if conf.adapter else _columns(conf, part)
        for index, row in enumerate(rows):
            read += 1
            try:
                found = extract(index, row)
                all_answers = bool(found.get("all_answers", conf.all_answers))
                problems.append(
                    Problem(
                        uid=f"{part.stem}/{found.get('uid', index)}",
                        problem=text_of(found["problem"], "problem"),
                        answer=gold_of(found["answer"], all_answers, missing),
                        source=part.source,
                        level=_level(found.get("level")),
                        all_answers=all_answers,
                    )
                )
            except Unusable as reason:
                unusable[str(reason)] += 1

    if not read:
        raise BadInput(f"{key}.path={source}: the file is empty; it must hold at least one row")
    faulty = sum(unusable.values()) - unusable[SKIPPED]  # rows skipped by an adapter are not faulty
    if not problems or faulty > conf.max_unusable * read:
        limit = f"more than data.max_unusable={conf.max_unusable:g}" if problems else "none is left"
        raise BadInput(
            f"{source}: {limit}{_reasons(+unusable, read)}; "
            "check data.problem_column and data.answer_column, or clean the file"
        )
    _refuse_duplicates(problems, source)
    return LoadedProblems(tuple(problems), source, read, dict(+unusable), content_hash(problems))


def content_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 (hex) of questions and answers in order, independent of file format and folder."""
    digest = hashlib.sha256()
    for p in problems:
        digest.update(json.dumps([p.problem, p.answer, p.level, p.all_answers]).encode() + b"\n")
    return digest.hexdigest()


def split_validation(problems: Sequence[Problem], size: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, held out): `size` problems drawn by `seed`, both in the given order.

    No question is in both: rows that repeat a held-out question's text are left out of training too.
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
    """How to load `validation.path`: columns, adapter and limits of `data`, everything else of `validation`."""
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


def _columns(conf: DataConf, part: Part) -> tuple[Extract, Iterator[Row]]:
    present = part.rows.columns()
    if not present:  # no row
        return lambda index, row: row, iter(())
    layout = layout_of(conf, present, part.source, part.pinned)
    return lambda index, row: layout.of(row, conf.system_turn), part.rows.read(layout.names)


def _adapted(conf: DataConf, part: Part) -> tuple[Extract, Iterator[Row]]:
    adapter = load_function(str(conf.adapter), "data.adapter")

    def extract(index: int, row: Row) -> Mapping[str, Any]:
        where = f"{part.source}, row {index}: data.adapter={conf.adapter}"
        try:
            found = adapter(dict(row))
        except Exception as error:
            raise BadInput(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
        if found is None:
            raise Unusable(SKIPPED)
        if not isinstance(found, Mapping) or not {"problem", "answer"} <= set(found):
            raise BadInput(f"{where} must return a dict with problem and answer, or None; got {found!r:.80}")
        return found

    return extract, part.rows.read(None)


def _level(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else None
    return None if value is None else str(value).strip() or None


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
