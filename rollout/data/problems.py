"""Problems with their gold answers, from files or a pinned hub data set.

In: `DataConf`. Out: `LoadedProblems`: the usable rows as `Problem`s, the count of unusable rows by reason, a hash.
A row that cannot be used is skipped and counted; anything the user can fix is `BadInput`.
Must not know: tokenizers, prompts, how answers are graded.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from conf.schema import DataConf, ValidationConf
from conf.source import SourceConf
from rollout.base.errors import BadInput
from rollout.data.dataset_rows import SKIPPED, LeftOut, Part, adapted, read_parts
from rollout.data.files import Row, listed
from rollout.data.golds import Unusable, gold_of, level_of, text_of
from rollout.data.layouts import layout_of

LONGEST_PROBLEM = 1_000_000  # characters; to find that none fits into a prompt takes seconds beyond that


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
    left_out: LeftOut
    sha256: str  # of the usable content (see content_hash)

    @property
    def unusable(self) -> dict[str, int]:
        """Reason -> rows."""
        return dict(self.left_out.counts)

    @property
    def rows(self) -> int:
        """All rows that were read."""
        return len(self.problems) + self.left_out.counts.total()

    def summary(self) -> str:
        """One line for the console."""
        left = f", {self.left_out.said(self.rows)}" if self.left_out.counts else ""
        return f"{self.source}: {len(self.problems)} problems{left}"


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
    left_out = LeftOut()
    for part in parts:
        extract, rows = _adapted(conf, part) if conf.adapter else _columns(conf, part)
        for index, row in enumerate(rows):
            try:
                found = extract(row)
                all_answers = bool(found.get("all_answers", conf.all_answers))
                problems.append(
                    Problem(
                        uid=f"{part.stem}/{found.get('uid', index)}",
                        problem=text_of(found["problem"], "problem", LONGEST_PROBLEM),
                        answer=gold_of(found["answer"], all_answers, missing),
                        source=part.source,
                        level=level_of(found.get("level")),
                        all_answers=all_answers,
                    )
                )
            except Unusable as reason:
                left_out.add(str(reason), part.source, index)
    advice = "check data.problem_column and data.answer_column, or clean the file"
    limit = f"data.max_unusable={conf.max_unusable:g}"
    left_out.refuse(len(problems), conf.max_unusable, f"{key}.path={source}", limit, advice)
    uid, count = Counter(p.uid for p in problems).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{source}: {count} rows have the uid {uid!r}; the adapter must give each row its own")
    return LoadedProblems(tuple(problems), source, left_out, content_hash(problems))


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
    source = {field.name: getattr(validation, field.name) for field in fields(SourceConf)}
    return replace(data, **source, shard=0, num_shards=1)


# ---- from rows to problems ----

Extract = Callable[[Any], Mapping[str, Any]]  # of a row: problem, answer, level?, uid?, all_answers?; or Unusable


def _columns(conf: DataConf, part: Part) -> tuple[Extract, Iterator[Row]]:
    present = part.rows.columns()
    if not present:  # no row
        return dict, iter(())
    layout = layout_of(conf, present, part.source, part.pinned)
    return lambda row: layout.of(row, conf.system_turn), part.rows.read(layout.names)


def _adapted(conf: DataConf, part: Part) -> tuple[Extract, Iterator[Row | None]]:
    def extract(found: Row | None) -> Row:
        if found is None:
            raise Unusable(SKIPPED)
        return found

    return extract, adapted(part, str(conf.adapter), "data.adapter", ("problem", "answer"))
