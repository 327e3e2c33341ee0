"""Whether two formulas have the same values: at several points, a test by random values (Schwartz 1980, Zippel 1979).

In: trees without lists or relations. Out: a truth value, or the constant ratio of two formulas. Must not know: text,
other kinds of trees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from reward.maths.compare.residues import same_residues
from reward.maths.compare.value import TooLarge, Undefined, evaluate, ratio, real, same
from reward.maths.parse.grammar import Node
from reward.maths.trees import names, some, walk

_INTEGERS = set("nkmNjlr")  # names that usually stand for integers


def _points(symbols: Sequence[str], whole: bool) -> Iterator[dict[str, Fraction]]:
    """Seven points: three small positive ones, a negative one, two of mixed sign, one large; the same in every formula
    with the same names. whole: with integers for the names that usually stand for them."""
    for trial in range(7):
        point = {}
        for name in symbols:
            rng = random.Random(f"{name}/{trial}")
            value = Fraction(rng.randrange(301, 2999), 997) * (40 if trial == 6 else 1)
            value = -value if trial == 3 or (trial in (4, 5) and rng.random() < 0.5) else value
            if whole and name[:1] in _INTEGERS:
                value = Fraction(rng.randrange(3, 14) + trial)
            point[name] = value
        yield point


def decimal(*nodes: Node) -> bool:
    return any(some(node, "dec") for node in nodes)


def constant_ratio(a: Node, b: Node) -> Any:
    """a / b if it is the same at every point, otherwise None."""
    first = None
    for point in _points(sorted(names(a) | names(b)), whole=False):
        try:
            x, y = evaluate(a, point), evaluate(b, point)
        except Undefined:
            continue
        if isinstance(x, list) or isinstance(y, list) or x == 0 or y == 0 or not (real(x) and real(y)):
            return None
        now = ratio(x, y)
        if first is not None and not same(first, now, decimal(a, b)):
            return None
        first = now
    return first if first is None or isinstance(first, Fraction) else first.real


def same_value(a: Node, b: Node) -> bool:
    if a[0] == b[0] == "pct":
        return _at_points(a[1], b[1])
    for one, other in ((a, b), (b, a)):
        if one[0] == "pct" and other[0] != "pct":
            return _at_points(one[1], other) or _at_points(one, other)
        if one[0] == "deg" and other[0] != "deg":
            return _at_points(one[1], other) or _at_points(one, other)
    return _at_points(a, b) or ((_whole_matters(a) or _whole_matters(b)) and _at_points(a, b, whole=True))


_OF_INTEGERS = {("const", "pi"), ("fn", "factorial"), ("fn", "binom"), ("fn", "mod")}


def _whole_matters(node: Node) -> bool:
    """Factorials, sums, (-1)^n, cos n pi: formulas in integers."""
    return any(
        part[0] in ("sum", "prod")
        or part[:2] in _OF_INTEGERS
        or (part[0] == "pow" and names(part[2]) and not names(part[1]))
        for part in walk(node)
    )


def _value(node: Node, point: dict[str, Fraction]) -> Any:
    """Its value; the class of the error if it has none."""
    try:
        return evaluate(node, point)
    except Undefined as error:
        return type(error)


def _at_points(a: Node, b: Node, whole: bool = False) -> bool:
    symbols = sorted(names(a) | names(b))
    loose = decimal(a, b)
    heads = {part[:2] for part in (*walk(a), *walk(b))}
    imaginary = ("const", "i") in heads
    several = len(symbols) > 1 and ("fn", "abs") not in heads
    compared = unreal = 0
    exact = True
    for point in _points(symbols, whole):
        x, y = _value(a, point), _value(b, point)
        if x is y is TooLarge and not symbols:
            return same_residues(a, b) is True
        undefined = [value in (Undefined, TooLarge) for value in (x, y)]
        if all(undefined):
            continue
        if any(undefined):
            return False
        if symbols and not imaginary and not (real(x) and real(y)):
            if real(x) != real(y):  # log ab against log a + log b, both negative
                if several:
                    continue
                return False
            unreal += 1 if same(x, y, loose) else -100
            continue  # outside the reals
        if not same(x, y, loose):
            return False
        exact = exact and isinstance(x, Fraction) and isinstance(y, Fraction)
        compared += 1
        if not symbols:
            break
    if compared and not exact and same_residues(a, b) is False:
        return False  # equal in their first 40 digits only
    return compared > 0 or unreal > 0
