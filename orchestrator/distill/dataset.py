"""The finished data set: one row a question, in shards of parquet, with a card and the list of what was left out.

In: questions, answers and verdicts. Out: `part-00000-of-00007.parquet` and on, `dropped.jsonl`, `card.json`, `card.md`
in the output folder. Must not know: teachers, where anything came from.

All of it is written to a folder beside, and moved to its place when it is whole; the card comes last. Rows stream: one
question's answers are in memory at a time, and one shard's rows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.choices import Pairing
from conf.distill import DistillConf
from orchestrator.base.journal import Journal
from orchestrator.distill.answers import SIDES, Answer
from orchestrator.distill.choose import Candidate, choose
from orchestrator.distill.questions import Questions
from orchestrator.distill.reading import Reading, Unfit, read
from orchestrator.distill.tally import Tally
from reward.verdict import Outcome
from rollout.data.problems import Problem

COLUMNS = ("problem", "think", "short", "uid", "source", "level", "answer", "think_teacher", "short_teacher", "license")
NUMBERS = ("think_tokens", "short_tokens")  # null where a teacher does not tell
ROW_GROUP = 1000


class Choice:
    """Chooses among the answers to a question, and counts."""

    def __init__(
        self,
        conf: DistillConf,
        answers: Journal,
        verdicts: Journal,
        strict: bool,
        think_end: str,
        names: dict[str, str],
    ) -> None:
        """think_end: the token that closes thinking in the rows; names: of the teachers, by side."""
        self.conf, self.answers, self.verdicts = conf, answers, verdicts
        self.strict, self.think_end, self.names = strict, think_end, names
        self.tally = Tally()

    def row(self, problem: Problem, sides: tuple[str, ...]) -> tuple[dict[str, Any] | None, str]:
        """(the question's row, or None; which sides have no answer, and why)"""
        taken: dict[str, tuple[Answer, Reading]] = {}
        lacking = []
        for side in sides:
            one, why = self._side(problem, side)
            if one is None:
                lacking.append(f"{side}: {why}")
            else:
                taken[side] = one
        missing = "; ".join(lacking)
        if not taken or (self.conf.pairing is Pairing.paired and lacking):
            return None, missing
        answer = problem.answer if isinstance(problem.answer, str) else json.dumps(problem.answer, ensure_ascii=False)
        row: dict[str, Any] = dict.fromkeys((*COLUMNS, *NUMBERS))
        row |= {"problem": problem.problem, "uid": problem.uid, "source": problem.source, "level": problem.level}
        row |= {"answer": answer, "license": self.conf.license}
        for side, (said, reading) in taken.items():
            row |= {
                side: reading.text(self.think_end),
                f"{side}_teacher": self.names[side],
                f"{side}_tokens": said.tokens,
            }
            self.tally.take(side, said, reading)
        self.tally.rows[" and ".join(taken)] += 1
        self.tally.sources[problem.source] += 1
        return row, missing

    def _side(self, problem: Problem, side: str) -> tuple[tuple[Answer, Reading] | None, str]:
        found: dict[int, tuple[Answer, Reading]] = {}
        right: set[int] = set()
        became: Counter[str] = Counter()
        for sample in range(self.conf.samples):
            key = (problem.uid, side, sample)
            if key not in self.answers.kept:
                became["not answered"] += 1
                continue
            answer = Answer(**self.answers.read(key))
            try:
                reading = read(answer, self.conf.over_length, self.strict)
            except Unfit as why:
                became[str(why)] += 1
                continue
            outcome: Outcome = self.verdicts.kept[key]
            became[outcome.value] += 1
            found[sample] = answer, reading
            if outcome is Outcome.CORRECT:
                right.add(sample)
        self.tally.became(side, problem.level, became)
        told = all(answer.tokens is not None for answer, _ in found.values())
        candidates = [
            Candidate(
                sample,
                (answer.tokens or 0) if told else len(reading.text()),
                sample in right,
                answer.logprob,
            )
            for sample, (answer, reading) in found.items()
        ]
        one = choose(candidates, side, self.conf.keep, self.conf.long_answer)
        if one is None:
            return None, ", ".join(f"{what} {count}" for what, count in became.most_common())
        return found[one.sample], ""


def write(out: Path, questions: Questions, choice: Choice) -> Path:
    """Write all files but the card into a folder beside; returns that folder, for `publish`."""
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "dropped.jsonl").open("w", encoding="utf-8") as dropped:

        def drop(row: dict[str, Any]) -> None:
            dropped.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")

        for one in questions.dropped:
            drop(one)
        count = _write_shards(partial, _rows(questions, choice, drop), choice.conf.shard_rows)
    for number in range(count):
        (partial / f"part-{number:05}.parquet").rename(partial / f"part-{number:05}-of-{count:05}.parquet")
    return partial


def _rows(questions: Questions, choice: Choice, drop: Any) -> Iterator[dict[str, Any]]:
    for problem in questions.problems:
        sides = questions.sides[problem.uid]
        row, missing = choice.row(problem, sides)
        if missing:
            why = "no answer was kept" if row is None else "one of its answers was not kept"
            drop({"uid": problem.uid, "why": why, "of": missing, "problem": problem.problem})
            choice.tally.dropped[why] += 1
        if row is not None:
            yield row


def _write_shards(folder: Path, rows: Iterator[dict[str, Any]], size: int) -> int:
    import pyarrow
    import pyarrow.parquet

    texts = [pyarrow.field(name, pyarrow.string()) for name in COLUMNS]
    schema = pyarrow.schema([*texts, *(pyarrow.field(name, pyarrow.int64()) for name in NUMBERS)])
    number, held, written, writer = 0, [], 0, None

    def flush() -> None:
        assert writer is not None
        writer.write_table(pyarrow.Table.from_pylist(held, schema=schema))
        held.clear()

    for row in rows:
        if writer is None:
            writer, written = pyarrow.parquet.ParquetWriter(folder / f"part-{number:05}.parquet", schema), 0
        held.append(row)
        written += 1
        if len(held) >= ROW_GROUP or written == size:
            flush()
        if written == size:
            writer.close()
            writer, number = None, number + 1
    if writer is not None:
        if held:
            flush()
        writer.close()
        number += 1
    return number


def publish(partial: Path, out: Path) -> list[Path]:
    """Move the files of `partial` to `out`, in the place of an earlier data set; the cards last. Returns the shards."""
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    cards = ("card.md", "card.json")
    for old in (*(out / name for name in cards), *out.glob("part-*.parquet"), out / "dropped.jsonl"):
        old.unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: (path.name in cards, path.name)):
        path.rename(out / path.name)
    partial.rmdir()
    return sorted(out.glob("part-*.parquet"))


def sides_of(rows: Counter[str]) -> dict[str, int]:
    """Rows that have an answer, by side."""
    return {side: sum(count for name, count in rows.items() if side in name.split(" and ")) for side in SIDES}
