"""Subsets of the real line: intervals, points, unions, differences, inequalities -> one normal form.

In: trees of `grammar`. Out: sorted disjoint pieces, or None if a tree is not such a set or its bounds have symbols.
Only solved inequalities are sets: the name alone, or its absolute value, on one side; "2x + 1 < 5" restates a
question. Must not know: text, other kinds of trees.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp

from reward.maths.compare.value import Undefined, evaluate, real, same
from reward.maths.parse.grammar import Node
from reward.maths.trees import is_name, names

FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_MAX_PIECES = 200


class Piece(NamedTuple):
    """low <= x <= high, each end closed or open; a point has equal, closed ends. Infinite ends are open."""

    low: Any
    low_in: bool
    high: Any
    high_in: bool


Pieces = list[Piece]
LINE = [Piece(-mp.inf, False, mp.inf, False)]


def pieces(node: Node, solve: bool = False) -> Pieces | None:
    """The normal form of a set of reals. Example: "x < 1 or x > 3" is (-oo, 1), (3, oo).

    solve: accept 2x + 1 < 5 and |x - 1| < 2 as well.
    """
    found = _set(node, solve)
    return None if found is None else _tidied(found)


def whole_numbers(node: Node, least: int | None) -> list[int] | None:
    """The integers in a bounded set of reals, from `least` up; None if it is unbounded or large."""
    found = pieces(node)
    if found is None:
        return None
    if least is not None:
        found = _intersection(found, [Piece(Fraction(least), True, mp.inf, False)])
    out: list[int] = []
    for piece in found:
        if not (isinstance(piece.low, Fraction) and isinstance(piece.high, Fraction)) or piece.high - piece.low > 100:
            return None
        first, last = math.ceil(piece.low), math.floor(piece.high)
        out += range(
            first + (first == piece.low and not piece.low_in), last + 1 - (last == piece.high and not piece.high_in)
        )
    return out


def equal(a: Pieces, b: Pieces, decimal: bool) -> bool:
    return len(a) == len(b) and all(
        x.low_in == y.low_in
        and x.high_in == y.high_in
        and same(x.low, y.low, decimal)
        and same(x.high, y.high, decimal)
        for x, y in zip(a, b, strict=True)
    )


def _set(node: Node, solve: bool) -> Pieces | None:
    kind = node[0]
    if kind == "sym" and node[1] == "mathbb_R":
        return LINE
    if kind == "seq" and len(node[3]) == 2:
        low, high = _number(node[3][0]), _number(node[3][1])
        if low is None or high is None:
            return None
        if not _before(low, high) and not (node[1:3] == ("[", "]") and same(low, high, False)):
            return None  # a pair
        return [Piece(low, node[1] == "[" and _finite(low), high, node[2] == "]" and _finite(high))]
    if kind in ("set", "list") and not any(item[0] in ("rel", "seq", "setop") for item in node[1]):
        return _points(node[1])
    if kind == "setop":
        left, right = _set(node[2], solve), _set(node[3], solve)
        if left is None or right is None:
            return None
        left, right = _tidied(left), _tidied(right)
        if node[1] == "∪":
            return _tidied([*left, *right])
        return (_intersection if node[1] == "∩" else _difference)(left, right)
    if kind == "builder":
        name = node[1][1][0] if node[1][0] == "rel" and node[1][1][1] == "∈" else node[1]
        found = _set(node[2], True)
        return found if name[0] == "sym" and names(node[2]) - {"mathbb_R"} == {name[1]} else None
    if kind in ("or", "list", "set"):
        return _several("and" if node[2:] == ("and",) else kind, node[1], solve)
    if kind == "rel":
        return _inequality(list(node[1]), solve)
    return None


def _several(kind: str, items: tuple[Node, ...], solve: bool) -> Pieces | None:
    """Inequalities joined by "or" are a union, by "and" or a comma an intersection (comma: a union if that is empty).

    A number among them stands for "x = 0".
    """
    if not any(item[0] == "rel" for item in items):
        return None
    found: list[Pieces] = []
    for item in items:
        one = _set(item, solve) if item[0] == "rel" else _points([item])
        if one is None:
            return None
        found.append(_tidied(one))
    if len(set().union(*map(names, items)) - {"mathbb_R"}) > 1:
        return None
    union = _tidied([piece for one in found for piece in one])
    if kind == "or":
        return union
    both = functools.reduce(_intersection, found)
    return both if kind == "and" else both or union


def _points(items: Sequence[Node]) -> Pieces | None:
    values = [_number(item) for item in items]
    return None if None in values else [Piece(value, True, value, True) for value in values]


def _number(node: Node) -> Any:
    try:
        value = evaluate(node, {})
    except Undefined:
        return None
    return value if not isinstance(value, list) and real(value) else None


def _inequality(parts: list[Any], solve: bool) -> Pieces | None:
    """a <= x < b, x > a, |x| < a, x != a, x in S."""
    if len(parts) == 5 and parts[1][0] == parts[3][0] in "<>":
        first, second = _inequality(parts[:3], solve), _inequality(parts[2:], solve)
        return None if first is None or second is None else _intersection(_tidied(first), _tidied(second))
    if len(parts) != 3:
        return None
    left, op, right = parts
    if op == "∈":
        return _set(right, solve) if left[0] == "sym" else None
    if op not in ("<", "<=", ">", ">=", "!="):
        return None
    if _number(left) is not None:
        left, op, right = right, FLIP[op], left
    while left[0] == "neg":
        left, op, right = left[1], FLIP[op], ("neg", right)
    bound = _number(right)
    if bound is None:
        return None
    if solve and left[0] != "sym" and (linear := _linear(left[2] if left[:2] == ("fn", "abs") else left)):
        slope, offset = linear
        name: Node = ("sym", "x")
        inner = _inequality([("fn", "abs", name) if left[:2] == ("fn", "abs") else name, op, right], False)
        return None if inner is None else [_moved(piece, slope, offset) for piece in inner]
    if left[:2] == ("fn", "abs") and left[2][0] == "sym":
        if op == "!=":
            return _difference(LINE, [Piece(-bound, True, -bound, True), Piece(bound, True, bound, True)])
        inside = _tidied([Piece(-bound, op in ("<=", ">"), bound, op in ("<=", ">"))])  # empty for a negative bound
        return inside if op in ("<", "<=") else _difference(LINE, inside)
    if left[0] == "fn" or not is_name(left):
        return None
    left_of, right_of = Piece(-mp.inf, False, bound, op == "<="), Piece(bound, op == ">=", mp.inf, False)
    return [left_of, right_of] if op == "!=" else [left_of if op in ("<", "<=") else right_of]


def _linear(node: Node) -> tuple[Fraction, Fraction] | None:
    """(a, b) if the tree is a x + b in its only symbol, with exact numbers and a not 0."""
    found = names(node)
    if len(found) != 1:
        return None
    try:
        zero, one, two, seven = (evaluate(node, dict.fromkeys(found, Fraction(x))) for x in (0, 1, 2, 7))
    except Undefined:
        return None
    if not all(isinstance(x, Fraction) for x in (zero, one, two, seven)) or one == zero:
        return None
    slope = one - zero
    return (slope, zero) if two == zero + 2 * slope and seven == zero + 7 * slope else None


def _moved(piece: Piece, slope: Fraction, offset: Fraction) -> Piece:
    """The x for which slope x + offset is in the piece."""

    low, high = (
        (end - offset) / slope if isinstance(end, Fraction) else (end - _mp(offset)) / _mp(slope)
        for end in (piece.low, piece.high)
    )
    if slope > 0:
        return Piece(low, piece.low_in, high, piece.high_in)
    return Piece(high, piece.high_in, low, piece.low_in)


# ------------------------------------------------------------------ algebra of pieces


def _before(a: Any, b: Any) -> bool:
    """a < b by more than rounding."""
    return bool(_mp(a) < _mp(b)) and not same(a, b, False)


def _mp(a: Any) -> Any:
    return mp.re(mp.mpf(a.numerator) / a.denominator if isinstance(a, Fraction) else a)


def _finite(a: Any) -> bool:
    return isinstance(a, Fraction) or bool(mp.isfinite(a))


def _tidied(found: Pieces) -> Pieces:
    """Sorted, without empty pieces, touching ones joined."""
    if len(found) > _MAX_PIECES:
        raise Undefined("too many pieces")
    whole = [p for p in found if _before(p.low, p.high) or (same(p.low, p.high, False) and p.low_in and p.high_in)]
    whole.sort(key=lambda p: (_mp(p.low), not p.low_in))
    out: Pieces = []
    for piece in whole:
        if out:
            last = out[-1]
            touching = same(last.high, piece.low, False) and (last.high_in or piece.low_in)
            if touching or _before(piece.low, last.high):
                if _before(last.high, piece.high):
                    out[-1] = Piece(last.low, last.low_in, piece.high, piece.high_in)
                elif same(last.high, piece.high, False):
                    out[-1] = Piece(last.low, last.low_in, last.high, last.high_in or piece.high_in)
                continue
        out.append(piece)
    return out


def _complement(a: Pieces) -> Pieces:
    lows = [(-mp.inf, False), *((piece.high, not piece.high_in) for piece in a)]
    highs = [*((piece.low, not piece.low_in) for piece in a), (mp.inf, False)]
    return _tidied([Piece(*low, *high) for low, high in zip(lows, highs, strict=True)])


def _intersection(a: Pieces, b: Pieces) -> Pieces:
    return _complement(_tidied([*_complement(a), *_complement(b)]))


def _difference(a: Pieces, b: Pieces) -> Pieces:
    return _complement(_tidied([*_complement(a), *b]))
