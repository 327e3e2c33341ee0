"""The questions that teachers are asked: those of data.*, once each, without copies of evaluation questions.

In: configuration. Out: `Questions`, and what was left out with the reason. Must not know: teachers, answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from conf.choices import Pairing, SystemTurn
from conf.distill import DistillConf
from conf.schema import Config
from conf.source import SourceConf
from orchestrator.base.waiting import waiting
from orchestrator.distill.answers import SIDES
from orchestrator.distill.likeness import EvaluationQuestions, plain_text
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.dataset_rows import read_parts
from rollout.data.files import listed
from rollout.data.golds import Unusable
from rollout.data.layouts import PROBLEM_COLUMNS, field, question
from rollout.data.problems import Problem, content_hash, load_problems


@dataclass(frozen=True, slots=True)
class Questions:
    problems: tuple[Problem, ...]  # in the data set's order
    sides: dict[str, tuple[str, ...]]  # uid -> the sides that are asked
    data_hash: str  # of all that data.path holds
    rows: int  # that were read
    dropped: tuple[dict[str, Any], ...]  # uid, why, and what it is like
    evaluation_sets: dict[str, int]  # questions of each
    notes: tuple[str, ...]

    @property
    def left_out(self) -> Counter[str]:
        """By reason."""
        return Counter(row["why"] for row in self.dropped)


def load_questions(conf: Config) -> Questions:
    """Raises BadInput as `rollout.data.problems.load_problems`; nothing left; evaluation sets without questions."""
    distill, data, notes = conf.distill, conf.data, list[str]()
    if data.path is None:
        if distill.problems is None:
            raise BadInput(
                "no questions: give data.path=<problems with answers>, or distill.problems=<number> for generated ones"
            )
        found = tuple(generated.problem_at(conf.run.seed, i, data) for i in range(distill.problems))
        rows, data_hash = len(found), generated.conf_hash(data)
    else:
        with waiting(f"reading data.path={data.path}"):
            loaded = load_problems(data)
        found, rows, data_hash = loaded.problems, loaded.rows, content_hash(loaded.problems)
        notes.append(loaded.summary())
    evaluation = _evaluation_questions(distill)
    kept: list[Problem] = []
    dropped: list[dict[str, Any]] = []
    first: dict[str, str] = {}  # plain text -> uid of the first question that has it
    with waiting("comparing the questions"):
        for problem in found:
            if (same := first.setdefault(plain_text(problem.problem), problem.uid)) != problem.uid:
                dropped.append({"uid": problem.uid, "why": "repeated", "of": same, "problem": problem.problem})
            elif like := evaluation.match(problem.problem):
                why = f"{like.kind} copy of an evaluation question"
                dropped.append(
                    {"uid": problem.uid, "why": why, "of": like.source, "problem": problem.problem, "like": like.text}
                )
            else:
                kept.append(problem)
    if not kept:
        said = listed(f"{why}: {count}" for why, count in Counter(row["why"] for row in dropped).items())
        templates = any(row["why"].startswith("renumbered") for row in dropped)
        hint = "; where questions differ in their numbers alone: distill.renumbered=false" if templates else ""
        raise BadInput(f"data.path={data.path}: none of {rows} questions is left ({said}){hint}")
    problems, sides = _drawn(kept, distill, conf.run.seed)
    return Questions(problems, sides, data_hash, rows, tuple(dropped), evaluation.counts, tuple(notes))


def _drawn(
    kept: Sequence[Problem], conf: DistillConf, seed: int
) -> tuple[tuple[Problem, ...], dict[str, tuple[str, ...]]]:
    """`conf.problems` of them, and who is asked: with more problems, those drawn before keep their sides."""

    def place(problem: Problem) -> bytes:
        return hashlib.blake2b(f"distill/{seed}/{problem.uid}".encode(), digest_size=8).digest()

    chosen = sorted(kept, key=place)[: conf.problems]
    both = tuple(SIDES)
    sides = {
        problem.uid: (both[rank % 2],) if conf.pairing is Pairing.unpaired else both
        for rank, problem in enumerate(chosen)
    }
    return tuple(problem for problem in kept if problem.uid in sides), sides


def _evaluation_questions(conf: DistillConf) -> EvaluationQuestions:
    found = EvaluationQuestions(conf.ngram, conf.renumbered)
    if conf.against is None:
        return found
    for path in conf.against if isinstance(conf.against, list | tuple) else [conf.against]:
        with waiting(f"reading distill.against={path}"):
            before = sum(found.counts.values())
            try:
                for text, source in _texts(SourceConf(path=path)):
                    found.add(text, source)
            except BadInput as error:
                raise BadInput(str(error).replace("distill.against.path", "distill.against")) from error
            if sum(found.counts.values()) == before:
                raise BadInput(f"distill.against={path}: holds no question")
    return found


def _texts(conf: SourceConf) -> Iterator[tuple[str, str]]:
    """(question, source) of every row that has one; answers are not needed."""
    for part in read_parts(conf, "distill.against"):
        present = part.rows.columns()
        name = part.pinned.problem_column or next((one for one in PROBLEM_COLUMNS if one in present), None)
        if name is None:
            raise BadInput(
                f"distill.against: {part.source} has no column named {' or '.join(PROBLEM_COLUMNS)}; its columns are "
                f"{listed(present)}"
            )
        for row in part.rows.read([name]):
            try:
                text = question(field(row, name), SystemTurn.drop, name)
            except Unusable:
                continue
            if isinstance(text, str) and text.strip():
                yield text, part.source
