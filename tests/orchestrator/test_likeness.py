"""Copies of evaluation questions are found, with the same numbers and with others; other questions are let through."""

from __future__ import annotations

import random
import re

import pytest

from orchestrator.distill.likeness import EvaluationQuestions, plain_text, without_numbers, words_of

NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dov",
    "Elif",
    "Finn",
    "Gita",
    "Hugo",
    "Ines",
    "Jun",
    "Kofi",
    "Lara",
    "Mika",
    "Nour",
    "Omar",
    "Pia",
]
THINGS = ["apples", "marbles", "stamps", "coins", "shells", "pencils", "tickets", "cards"]
PLACES = ["market", "school", "harbour", "library", "garden", "station"]
STEPS = (
    "{n} has {a} {t} in a box and puts {b} {t} more into it every day",
    "on the way to the {p} {n} loses {a} of the {t}",
    "a friend at the {p} gives {n} {b} times as many {t} as before",
    "{n} sells each of the {t} for {a} dollars and keeps {b} dollars",
    "half of the {t} are red and {a} of them are broken",
    "the trip from the {p} with all {t} takes {a} hours and {b} minutes",
)
ASKED = ("How many {t} does {n} have at the end?", "How many dollars does {n} earn?", "How long does {n} need in all?")


def story(rng: random.Random, things: list[str] = THINGS) -> str:
    """A word problem of two to four sentences and a question."""
    steps = [*rng.sample(STEPS, rng.randint(2, 4)), rng.choice(ASKED)]
    words = {"n": rng.choice(NAMES), "t": rng.choice(things), "p": rng.choice(PLACES)}
    return ". ".join(step.format(**words, a=rng.randint(2, 90), b=rng.randint(2, 9)) for step in steps)


def formula(rng: random.Random) -> str:
    """As competitions ask them; shorter than 13 words."""
    a, b, c = (rng.randint(2, 99) for _ in range(3))
    function = rng.choice(("sin", "cos", "log", "exp", "gcd"))
    x, y = rng.sample("abcdefghmnpqrstuvwxyz", 2)
    return f"Find ${x}$ if $\\{function}({a}{x}) + \\frac{{{b}}}{{{y}}} = {c}$."


def renumbered(text: str, rng: random.Random) -> str:
    """Other numbers; some with a decimal point, some spelt out where they are words."""

    def other(found: re.Match[str]) -> str:
        number = rng.choice([n for n in range(2, 120) if str(n) != found[0]])
        spelt = rng.choice(["three", "twelve", "twenty five"]) if "$" not in text else str(number)
        return rng.choice([str(number), str(number), f"{number}.5", spelt])

    return re.sub(r"\d+", other, text)


@pytest.mark.parametrize(("make", "count"), [(story, 300), (formula, 300)])
def test_planted_copies_are_found(make: object, count: int) -> None:
    """All exact ones, also in other capitals, spaces and LaTeX; 95 % of those with other numbers."""
    rng = random.Random(1)
    texts = [make(rng) for _ in range(count)]  # type: ignore[operator]
    evaluation = EvaluationQuestions(13)
    for text in texts:
        evaluation.add(text, "test")
    for text in texts:
        same = text.upper().replace(" ", "  ").replace("$", "").replace("\\FRAC", "\\dfrac")
        for copy in (text, same):
            match = evaluation.match(copy)
            assert match is not None and match.kind == "exact" and match.source == "test"
    found = [evaluation.match(renumbered(text, rng)) for text in texts]
    assert sum(match is not None for match in found) >= 0.95 * count


def test_other_questions_are_let_through() -> None:
    """Sentences of the same shape about other things; a phrase that all questions of a competition share."""
    rng = random.Random(2)
    shared = "The answer can be written as m/n, where m and n are relatively prime positive integers. Find m+n."
    evaluation = EvaluationQuestions(13)
    for _ in range(300):
        evaluation.add(story(rng), "test")
        evaluation.add(f"{story(rng)} {story(rng)} {shared}", "test")
    others = [f"{story(rng, ['lamps', 'hats', 'bolts', 'maps'])} {shared}" for _ in range(200)]
    others += [f"Let ABC be a triangle with a point {x} on its side BC; what is the area? {shared}" for x in "DEFGH"]
    assert sum(evaluation.match(text) is not None for text in others) <= 2


def test_what_counts_as_a_word_and_as_a_number() -> None:
    assert words_of("Compute $\\frac{1}{2}+3$.") == ("compute", "1", "2", "+", "3")
    assert words_of("[asy]draw((0,0)--(3,0));[/asy] Its area?") == ("its", "area")
    for same in ("1,000 apples", "12.5 apples", "twenty five apples", "1/2 apples", "3 + 4 apples"):
        assert without_numbers(words_of(same)) == ("0", "apples")
    assert plain_text("Is $2 + 3$  Odd?") == plain_text("is 2+3 odd?") != plain_text("Is $2 - 3$ odd?")


def test_an_evaluation_question_within_a_longer_text_is_found() -> None:
    rng = random.Random(3)
    evaluation = EvaluationQuestions(13)
    evaluation.add(text := story(rng), "test")
    evaluation.add(short := formula(rng), "test")
    evaluation.add("What is $2+3$?", "test")
    for one in (text, short):
        match = evaluation.match(f"Solve this riddle, please. {one} Show all steps and box the result.")
        assert match is not None and (match.kind, match.text) == ("exact", one)
    assert evaluation.match("Solve this. What is $2+3$? Box the result.")
    assert not evaluation.match(f"What is $2+3$ times the number of apples of all colours, {' '.join(NAMES)}?")
    assert EvaluationQuestions(13).match(text) is None and evaluation.match("") is None
