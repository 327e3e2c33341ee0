"""Whether an answer equals the gold answer.

In: answer and gold as text. Out: a truth value. `quick` decides equal strings and plain numbers without importing
mpmath (None: not that simple); `equivalent` decides everything. Every step but sympy is bounded; sympy can hang, so
checks of untrusted answers run in a process that can be killed.

Both texts go through our own spelling, grammar and evaluation (`parse.spelling`, `parse.grammar`, `meaning`,
`compare.value`: exact fractions, 60-digit values by mpmath, formulas at several points) and our own algebra of real
sets (`compare.reals`), matrices and units. sympy only evaluates integrals, limits, derivatives and infinite sums
(`compare.symbolic`). No text ever reaches a library's parser.

Rules where other graders disagree with each other:
- Equal values are equal in any form: 22/1700 = 11/850, 10^4 = 10000. If one side is written as a decimal, the relative
  tolerance is 1e-6, never absolute (1.4142135623730951 = sqrt 2; 2.23 is not 2.232; 3.14 is not pi), and zero against
  an integer (`compare.tolerance`). Otherwise values compare exactly.
- x% equals x/100 and x. Units, currency signs and "degrees" on one side only are ignored; two known units must
  agree (5 km is 5000 m, not 5 m). Words that are not a unit (`unit_words`) count: "5 (or 6)" and 5 million are not 5.
- Comma lists and sets are unordered, and repeated members of a list count; tuples, ratios (up to scale) and interval
  brackets are ordered; a set is not a tuple. A list, such as "1 or 2", never equals a single gold.
- x = 5 equals 5, and so does a + b = 5, but 2x = 5 does not; named values compare by name; a chain of equal values
  equals its last; an approximation (A ~ 3.01) stands for A. A solved inequality equals its interval, unless the
  variables differ.
- 1,234 is a number, or a pair if the gold is one; 12 345 is a number; 1,22 may be 1.22; 4 2 is neither.
- Text compares without case, spaces and punctuation. An empty gold matches nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from reward.maths.compare.tolerance import close
from reward.maths.meaning import meant, some
from reward.maths.parse.grammar import MAX_CHARS, Node, Unreadable, parse
from reward.maths.parse.spelling import denies, tidy, without_unit
from reward.maths.units import split
from reward.maths.words import same_text, squash

Gold = str | Sequence[str]  # several: any of them may match, or all are wanted (`all_answers`)

_PRECISION = threading.RLock()  # mpmath's precision is global to the process

# ------------------------------------------------------------------ fast path

_PLAIN = re.compile(r"([+-]?)(?:\\?\$)?((?!0\d*,)(?:\d{1,3}(?:,\d{3})+|\d+)(?:/0*[1-9]\d*|\.\d*)?|\.\d+)")
_FRAC = re.compile(r"^([+-]?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}\Z")
_MAX_PLAIN = 4_100  # characters, within what Python converts


def plain_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, written as a decimal) of an integer, decimal or fraction; None when it is anything else.

    Example: "-1,234.50" is (Fraction(-2469, 2), True); "3/4" is (Fraction(3, 4), False).
    """
    if len(text) > _MAX_PLAIN or not text.isascii():
        return None
    match = _PLAIN.fullmatch(_FRAC.sub(r"\1\2/\3", text) if "frac" in text else text)
    if match is None:
        return None
    value = Fraction(match[1] + match[2].replace(",", ""))
    return value, "." in match[2][:-1]


def quick(answer: str, gold: Gold, all_answers: bool = False) -> bool | None:
    """`equivalent`, if plain numbers or equal strings decide it (microseconds); None if they do not."""
    return _over(answer, gold, all_answers, _quick)


def _quick(answer: str, gold: str) -> bool | None:
    answer, gold = answer.strip(), gold.strip()
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    if (a := plain_number(gold)) is None or (b := plain_number(answer)) is None:
        return None
    return close(a[0], b[0]) if a[1] or b[1] else a[0] == b[0]


# ------------------------------------------------------------------ all answers


def equivalent(answer: str, gold: Gold, all_answers: bool = False) -> bool:
    """Whether `answer` equals `gold`, both LaTeX or plain text.

    gold: one text, or several. With several, one match is enough; with all_answers the answer must list them all.
    Not symmetric: the gold is trusted, so "1,234" is a pair only if the gold is one.
    Raises nothing for any text; what cannot be read equals only itself. Calculus goes to sympy, which has no time
    limit: run untrusted answers in a process that can be killed.
    Example: equivalent("0.5", r"\\frac{1}{2}") is True, equivalent("2.23", "2.232") is False.
    """
    return _over(answer, gold, all_answers, _equivalent) is True


def _over(answer: str, gold: Gold, all_answers: bool, compare: Callable[[str, str], bool | None]) -> bool | None:
    if isinstance(gold, str):
        return compare(answer, gold)
    if all_answers and len(gold) > 1:
        if not all(one.strip() for one in gold):
            return False
        return compare(answer, r" \text{ and } ".join(gold))
    found = [compare(answer, one) for one in gold]
    return True if True in found else None if None in found else False


def _equivalent(answer: str, gold: str) -> bool:
    decided = _quick(answer, gold)
    if decided is not None:
        return decided
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        return squash(gold) == squash(answer)
    if (same := same_text(gold, answer)) is not None:
        return same
    if (name := _name(gold)) and (named := _name(answer)) and name != named:
        return False
    factor = Fraction(1)
    unit, other = split(gold), split(answer)
    if unit and other:
        if {unit[1][0], other[1][0]} == {(("degree", 1),), (("radian", 1),)}:
            gold, answer = (f"{one[0]}+0" for one in (unit, other))  # a sum: degrees count as what they are
        elif unit[1][0] != other[1][0]:
            return False
        else:
            gold, answer, factor = unit[0], other[0], unit[1][1] / other[1][1]
    elif unit is None:
        gold = without_unit(gold)
    return _same_meaning(answer, gold, factor)


def _same_meaning(answer: str, gold: str, factor: Fraction) -> bool:
    """factor: the size of the gold's unit over that of the answer's."""
    golds, answers = readings(gold), readings(answer)
    if not golds or not answers:
        return False
    from mpmath import mp

    from reward.maths.compare.equality import equal
    from reward.maths.compare.symbolic import CALCULUS, worked_out
    from reward.maths.compare.value import DIGITS

    if factor != 1:
        golds = tuple(("mul", tree, ("num", factor)) for tree in golds)
    with _PRECISION, mp.workdps(DIGITS):
        if any(equal(a, b) for a in golds for b in answers):
            return True
        if not any(some(tree, *CALCULUS) for tree in (*golds, *answers)):
            return False
        done = [worked_out(tree) for tree in golds], [worked_out(tree) for tree in answers]
        return any(equal(a, b) for a in done[0] for b in done[1] if a is not None and b is not None)


def warm() -> None:
    """Import everything that a check may need (about a second), so that it does not count against a time limit."""
    import sympy  # noqa: F401

    equivalent("2^{1/2}+0", "\\sqrt{2}")


_NAME = re.compile(r"[\s$]*([a-zA-Z])\s*=(?:[^=a-zA-Z\\]|\\[a-zA-Z]{2,}|\\[^a-zA-Z])*$")


def _name(text: str) -> str | None:
    """x of "x = 5", whose other side has no letter; the same in either case."""
    match = _NAME.match(text)
    return match[1].casefold() if match else None


@lru_cache(maxsize=256)
def readings(text: str) -> tuple[Node, ...]:
    """The trees that a text can be read as: 1,234 is a number or a pair, 1,22 a pair or 1.22."""
    short = tidy(text)
    if re.fullmatch(r"-?(?:0,\d+|\d+,\d{2}|\d{1,2},\d{4,})", short):
        return tuple(
            _read(short.replace(",", ".")) + ([] if re.search(r",0\d", short) else _read(short, thousands=False))
        )
    trees = _read(short)
    if re.search(r"\d,[1-9]\d\d", short) and not re.search(r"\d,0\d", short):
        trees += [tree for tree in _read(short, thousands=False) if tree not in trees]
    return tuple(trees)


_LABEL = re.compile(
    r"(?:\\(?:angle|triangle|overline)|\\?[a-zA-Z]{2,}+|\s++|\{[A-Z]++\}|_\{?\w++\}?)++=(?!=)"
)  # possessive: no backtracking on a run of words


def _read(text: str, thousands: bool = True) -> list[Node]:
    try:
        return [meant(parse(text, thousands))]
    except Unreadable:
        label = _LABEL.match(text)  # m\angle ABC = 60
        return _read(text[label.end() :].strip(), thousands) if label and not denies(label[0]) else []
