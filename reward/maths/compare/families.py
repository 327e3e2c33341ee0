"""Families over the integers: "2k + 1, k in Z", "x = 3 (mod 7)".

In: two trees of `meaning`. Out: whether they are the same family, or None if either is not one. Must not know: text,
other kinds of answers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from reward.maths.compare.value import Undefined, difference, evaluate, ratio, same
from reward.maths.meaning import NO_NUMBERS
from reward.maths.parse.grammar import Node
from reward.maths.trees import is_name, names


def _family(node: Node) -> tuple[Any, Any] | None:
    """(a, b) of "a k + b, k in Z" and of "b mod a"."""
    if node[0] == "residue":
        step, offset = node[2], node[1]
        return None if names(step) or names(offset) else (evaluate(step, {}), evaluate(offset, {}))
    if node[0] != "list" or len(node[1]) != 2:
        return None
    body, condition = node[1]
    if body[0] == "rel" and len(body[1]) == 3 and body[1][1] == "=" and is_name(body[1][0]):
        body = body[1][2]
    if condition[0] != "rel" or condition[1][1:] != ("∈", ("sym", "mathbb_Z")) or names(body) != names(condition[1][0]):
        return None
    if body[0] in NO_NUMBERS:
        return None
    (name,) = names(body)
    zero, one, two, five = (evaluate(body, {name: Fraction(k)}) for k in (0, 1, 2, 5))
    step = difference(one, zero)
    straight = same(difference(two, one), step, False) and same(difference(five, zero), step * 5, False)
    return (step, zero) if straight and step != 0 else None


def same_family(a: Node, b: Node) -> bool | None:
    """2k + 1 and 2n - 1, over all integers; None if either is not such a family."""
    if a[0] not in ("list", "residue") or b[0] not in ("list", "residue"):
        return None
    try:
        one, two = _family(a), _family(b)
        if one is None or two is None:
            return None
        if not (same(one[0], two[0], False) or same(one[0], -two[0], False)):
            return False
        turns = ratio(difference(one[1], two[1]), one[0])
        return bool(turns.denominator == 1) if isinstance(turns, Fraction) else same(turns, round(turns), False)
    except (Undefined, TypeError, OverflowError):
        return None
