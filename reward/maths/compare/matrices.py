"""Arithmetic of small matrices with the entries that `value` computes.

In: lists of rows. Out: lists of rows, or a number. Must not know: trees, text.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

Matrix = list[list[Any]]

MAX_SIDE = 12


class Shape(ArithmeticError):
    """The operation does not exist for these shapes, or the matrix is too large."""


def combine(op: str, a: Any, b: Any) -> Any:
    """a op b, at least one of them a matrix; op: add, mul, div, pow (from 1 to 20: inverses are not computed)."""
    if op == "add" and isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b) or len(a[0]) != len(b[0]):
            raise Shape("sum of different shapes")
        return [[x + y for x, y in zip(one, two, strict=True)] for one, two in zip(a, b, strict=True)]
    if op == "mul":
        if isinstance(a, list) and isinstance(b, list):
            return _product(a, b)
        matrix, factor = (a, b) if isinstance(a, list) else (b, a)
        return [[factor * x for x in row] for row in matrix]
    if op == "div" and not isinstance(b, list):
        return [[x / b for x in row] for row in a]
    if op == "pow" and isinstance(b, Fraction) and b.denominator == 1 and 1 <= b <= 20:
        return functools.reduce(_product, [a] * b.numerator)
    raise Shape(op)


def _product(a: Matrix, b: Matrix) -> Matrix:
    if len(a[0]) != len(b) or max(len(a), len(b), len(b[0])) > MAX_SIDE:
        raise Shape("product of these shapes")
    return [[sum((row[k] * b[k][j] for k in range(len(b))), Fraction(0)) for j in range(len(b[0]))] for row in a]


def transpose(a: Matrix) -> Matrix:
    return [list(column) for column in zip(*a, strict=True)]


def det(a: Matrix) -> Any:
    if len(a) != len(a[0]) or len(a) > 5:
        raise Shape("determinant of this shape")
    if len(a) == 1:
        return a[0][0]
    return sum(
        ((-1) ** j * a[0][j] * det([row[:j] + row[j + 1 :] for row in a[1:]]) for j in range(len(a))), Fraction(0)
    )
