"""Labelled cases of our own, several thousand, written apart from the grader: every one must be graded as labelled.

cases/*.jsonl hold {"id", "gold", "response", "expect", "why"}: notation, equivalents by construction and confusable
answers one edit away. Kinds: number, algebra, structure (sets, intervals, matrices, text), extraction (whole
responses), gold and edit (answers of public problem sets, rewritten and perturbed), fresh (a mixture written last, as a
check on the others).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reward.maths import verify

FILES = sorted((Path(__file__).parent / "cases").glob("*.jsonl"))


def test_the_cases_are_found() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) > 4000


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_case_is_graded_as_labelled(path: Path) -> None:
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({case["id"] for case in cases}) == len(cases)
    wrong = [case for case in cases if verify(case["response"], case["gold"]) is not case["expect"]]
    assert not wrong, wrong[:3]
