"""Planted copies of evaluation questions that are found, and other questions that are taken for copies.

In: evaluation questions, other questions. Out: figures. Must not know: teachers, answers.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from benchmarks._distill.copies import exact, generated, renumbered
from benchmarks._figures import figure, say
from conf.distill import DistillConf
from orchestrator.distill.likeness import EvaluationQuestions

COUNT = 2000  # generated questions of either kind
EXACT, RENUMBERED, FALSE = 1.0, 0.95, 0.01  # goals
SHOWN = 3  # of what was missed, and of what was taken for a copy


def read(path: Path) -> list[str]:
    """The column `problem` or `question` of a .json list or a .jsonl file."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
    return [str(row.get("problem") or row["question"]) for row in rows]


def likeness(evaluation: list[str] | None, others: list[str] | None, small: bool) -> None:
    """None: generated ones."""
    count = 100 if small else COUNT
    real = others is not None
    evaluation, others = evaluation or generated(count, 1, kind=0), others or generated(count, 2, kind=1)
    found = EvaluationQuestions(DistillConf().ngram)
    for text in evaluation:
        found.add(text, "evaluation")
    rng = random.Random(2)
    begin = time.perf_counter()
    same = [(text, found.match(exact(text, rng))) for text in evaluation]
    changed = [(copy, found.match(copy)) for text in evaluation if (copy := renumbered(text, rng)) is not None]
    taken = [(text, match) for text in others if (match := found.match(text))]
    seconds = time.perf_counter() - begin
    for name, missed in (("exact", same), ("renumbered", changed)):
        texts = [text for text, match in missed if match is None]
        say(f"{name}: {len(missed)} planted, {len(texts)} missed" + "".join(f"\n  {t[:200]!r}" for t in texts[:SHOWN]))
    say(f"{len(others)} others, {len(taken)} taken for copies"
        + "".join(f"\n  {t[:200]!r}\n  of {m.text[:200]!r}" for t, m in taken[:SHOWN]))  # fmt: skip
    share = [sum(match is not None for _, match in planted) / len(planted) for planted in (same, changed)]
    figure("distill_found_exact", share[0], "share of planted copies", EXACT, planted=len(same))
    figure("distill_found_renumbered", share[1], "share of planted copies", RENUMBERED, planted=len(changed))
    figure(
        "distill_false_copies",
        len(taken) / len(others),
        "share of other questions",
        None if real else FALSE,
        others=len(others),
    )
    per_s = (len(same) + len(changed) + len(others)) / seconds
    figure("distill_compared_per_s", per_s, "questions/s", evaluation=len(evaluation))
