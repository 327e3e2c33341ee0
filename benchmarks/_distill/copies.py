"""Copies of questions, made without a look at how they are found; and questions to copy.

In: a question, a random generator. Out: a copy of it; generated questions. Must not know: orchestrator.distill.
"""

from __future__ import annotations

import random
import re

SMALL = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fifteen", "twenty",
    "thirty", "forty", "fifty", "hundred",
)  # fmt: skip
NUMBER = re.compile(rf"\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(SMALL)})\b", re.IGNORECASE)

PEOPLE = (
    "Ada", "Ben", "Cleo", "Dov", "Elif", "Finn", "Gita", "Hugo", "Ines", "Jun", "Kofi", "Lara", "Mika", "Nour", "Omar",
    "Pia", "Quin", "Rosa", "Sami", "Tove",
)  # fmt: skip
GOODS = (  # of evaluation questions, of others
    ("apples", "marbles", "stamps", "coins", "shells", "pencils", "tickets", "cards"),
    ("lamps", "hats", "bolts", "maps", "ropes", "bricks", "cups", "seeds"),
)
PLACES = ("market", "school", "harbour", "library", "garden", "station", "bakery", "museum", "stadium", "farm")
SENTENCES = (
    "{n} keeps {a} {t} in a box and puts {b} more {t} into it every day",
    "On the way to the {p}, {n} loses {a} of the {t}",
    "A friend at the {p} gives {n} {b} times as many {t} as {n} had on Monday",
    "Each of the {t} costs {a} dollars at the {p}, and {n} pays {b} dollars for the bus",
    "Half of the {t} are red and {a} of them are broken",
    "The trip from the {p} with all the {t} takes {a} hours and {b} minutes",
    "Before noon {n} sorts {a} {t} into bags of {b}",
    "The owner of the {p} wants {a} percent of all {t} that {n} brings",
    "Together with {m}, {n} carries the {t} to the {p} in {b} rounds",
    "If it rains, {m} takes {b} of the {t} home, which is {a} fewer than yesterday",
)
ENDS = (
    "How many {t} does {n} have at the end?",
    "How many dollars does {n} earn at the {p}?",
    "How long do {n} and {m} need in all?",
    "What share of the {t} is left?",
)
FORMULAS = (  # of evaluation questions, of others
    (
        r"Find ${x}$ if $\{f}({a}{x}) + \frac{{{b}}}{{{y}}} = {c}$.",
        r"Let ${x}$ and ${y}$ be real numbers with ${a}{x} - {b}{y} = {c}$ and $\{f}({x}) = {y}$. Compute ${x}{y}$.",
    ),
    (
        r"What is the remainder when ${a}^{{{c}}} + {b}{x}$ is divided by {c}, where ${x} = \{f}({a})$?",
        r"How many integers ${x}$ with ${a} < {x} < {c}00$ satisfy $\{f}({x}) \ge {b}$?",
    ),
)


def generated(count: int, seed: int, kind: int) -> list[str]:
    """Word problems and formulas by turns; those of kind 1 are no copies of those of kind 0, and tell of other things
    in the same sentences."""
    rng, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        if len(found) % 2:
            x, y = rng.sample("abcdghkmnpqrstuvwxyz", 2)
            function = rng.choice(("sin", "cos", "log", "exp", "tan"))
            text = rng.choice(FORMULAS[kind]).format(x=x, y=y, f=function, **_numbers(rng))
        else:
            n, m = rng.sample(PEOPLE, 2)
            words = {"n": n, "m": m, "t": rng.choice(GOODS[kind]), "p": rng.choice(PLACES)}
            steps = [*rng.sample(SENTENCES, rng.randint(2, 4)), rng.choice(ENDS)]
            text = ". ".join(sentence.format(**words, **_numbers(rng)) for sentence in steps)
        found.setdefault(text)
    return list(found)


def _numbers(rng: random.Random) -> dict[str, int]:
    return {"a": rng.randint(13, 99), "b": rng.randint(3, 12), "c": rng.randint(13, 99)}


def exact(text: str, rng: random.Random) -> str:
    """The same question in other capitals, spaces and LaTeX, or with a sentence before or behind it."""
    changes = (
        lambda t: t,
        str.lower,
        lambda t: re.sub(r" ", "  ", t),
        lambda t: t.replace("$", "").replace(r"\frac", r"\dfrac"),
        lambda t: t.replace("$", " $ ").replace(r"\dfrac", r"\frac"),
        lambda t: f"Solve the following problem. {t}",
        lambda t: f"{t} Show all of your work and box the result.",
    )
    return rng.choice(changes)(text)


def renumbered(text: str, rng: random.Random) -> str | None:
    """The same question with another number wherever it has one; None: it has none. Outside of formulas some are
    written as words, or get a decimal point."""
    if not NUMBER.search(text):
        return None

    def other(found: re.Match[str]) -> str:
        old = found[0]
        before = text[: found.start()]
        formula = before.count("$") % 2 == 1 or before.endswith(("[", "(", "=", "^", "_", "{", "+", "-", "/", "*", "x"))
        if old.lower() in SMALL or (not formula and len(old) < 3 and rng.random() < 0.1):
            return rng.choice([word for word in SMALL if word != old.lower()])
        size = len(old.replace(",", "").partition(".")[0])
        numbers = range(10 ** (size - 1), 10**size)
        new = next(n for n in iter(lambda: rng.choice(numbers), None) if str(n) != old)
        written = f"{new:,}" if "," in old else str(new)
        return written + (f".{rng.randint(1, 99)}" if "." in old or (not formula and rng.random() < 0.05) else "")

    return NUMBER.sub(other, text)
