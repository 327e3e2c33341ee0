"""Spelling and units: what is dropped from an answer before it is parsed, and what never is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reward.maths.equivalence import equivalent
from reward.maths.parse.spelling import RULES, tidy
from reward.maths.parse.symbols import shown
from reward.maths.unit_words import is_unit

CASES = sorted((Path(__file__).parent / "cases").glob("*.jsonl"))


def test_a_rule_that_is_skipped_would_not_have_matched() -> None:
    texts: set[str] = set()
    for path in CASES:
        for line in path.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            texts.update(shown(text) for text in (case["gold"], case["response"]))
    assert len(texts) > 4000
    for need, pattern, _ in RULES:
        for text in texts:
            assert need in text or pattern.search(text) is None, (need, pattern.pattern, text)


UNITS = [
    *(
        "km",
        "miles per hour",
        "m/s^2",
        "sq. ft.",
        "cubic inches",
        "kg·m^2/s^2",
        "dollars an hour",
        "US dollars",
        "厘米",
    ),
    *("blue tiles", "slices of pie", "years old", "sheep", "tickets in all", "tile(s)", "(metres)", "of the rope"),
]
NO_UNITS = [
    *("not", "is wrong", "or seven", "(or 7)", "maybe", "I think", "at least", "dozen", "squared", "more than 3", "7"),
    *(
        "tiles or boxes",
        "hopefully",
        "doubtful",
        "tiles?",
        "tiles, boxes",
        "thirds",
        "if lucky",
        "和7",
        "不对",
        "times 7",
        "e.g.",
        "...",
        "N/A",
    ),
]


@pytest.mark.parametrize("words", UNITS)
def test_units_after_a_number_are_dropped(words: str) -> None:
    assert is_unit(words)
    assert equivalent(rf"31\text{{ {words}}}", "31")
    assert not equivalent(rf"32\text{{ {words}}}", "31")


@pytest.mark.parametrize("words", NO_UNITS)
def test_words_that_change_a_number_are_kept(words: str) -> None:
    assert not is_unit(words)
    for text in (rf"31\text{{ {words}}}", rf"31\mbox{{{words}}}", f"31 {words}"):
        assert not equivalent(text, "31")


def test_singular_units_need_a_count_of_one_except_in_golds() -> None:
    assert equivalent(r"1\text{ tile}", "1")
    assert not equivalent(r"21\text{ tile}", "21")
    assert equivalent("21", r"21\text{ tile}")
    assert equivalent("21", "21 (tiles)")
    assert not equivalent("21", "21 (or 22)")
    assert not equivalent("21", "21 (mod 25)")


def test_rules_do_not_depend_on_what_another_removes() -> None:
    assert tidy(r"12\text{ m}/\text{s}^{2}") == "12"
    assert tidy(r"3\text{ cm} \text{ or } 4\text{ cm}") == "3 or 4"
    assert re.fullmatch(r"8\s*or\s*9", tidy(r"8\text{ or }9"))
