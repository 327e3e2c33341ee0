"""Trees -> numbers: exact fractions while they are small, otherwise 60-digit floats (mpmath).

In: a tree of `grammar` without relations or lists, and values for its symbols. Out: Fraction, mpf or mpc, a
matrix as a list of rows of these, or `Undefined`. What has no value without calculus (an integral, a limit, an
infinite sum) gets a placeholder value that depends on all its parts, so that identical ones are equal. Every step is
bounded before it is computed (exponents, factorials, digits), so that no tree within the grammar's bounds takes long;
what exceeds the bounds is `TooLarge`. Must not know: text, golds, rewards.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from fractions import Fraction
from itertools import repeat
from typing import Any

from mpmath import mp

from reward.maths.compare.matrices import Shape, combine, det, transpose
from reward.maths.compare.tolerance import close
from reward.maths.parse.grammar import Node

DIGITS = 60
MAX_BITS = 20_000  # of an exact numerator or denominator; beyond that, floats
MAX_MAGNITUDE = 10_000_000  # of a float's binary exponent
MAX_FACTORIAL = 1_000_000
MAX_ANGLE_BITS = 200  # of a trigonometric function's argument
MAX_TERMS = 2_000  # of a sum or product, nested ones multiplied

Number = Any  # Fraction | mpf | mpc


class Undefined(ArithmeticError):
    """The tree has no value there: division by zero, not a number, outside a function's domain."""


class TooLarge(Undefined):
    """Computing it would exceed the bounds."""


def evaluate(node: Node, symbols: Mapping[str, Number]) -> Number:
    """The value; a rounding error around 0 becomes 0 (detected by computing again with twice the digits)."""
    try:
        value = _evaluate(node, symbols, MAX_TERMS)
        if isinstance(value, Fraction | list) or value == 0 or not mp.isfinite(value) or abs(value) > 1e-30:
            return value
        with mp.workdps(2 * mp.dps):
            again = _evaluate(node, symbols, MAX_TERMS)
            return Fraction(0) if abs(again) < abs(value) * mp.mpf(10) ** (-mp.dps // 4) else value
    except Undefined:
        raise
    except (Shape, ValueError, ArithmeticError, mp.NoConvergence) as error:  # mpmath: a pole, no convergence
        raise Undefined(str(error)) from None


def _evaluate(node: Node, symbols: Mapping[str, Number], terms: int) -> Number:
    kind = node[0]
    if kind in ("num", "dec"):
        return node[1]
    if kind == "sym":
        if node[1] not in symbols:
            raise Undefined(f"free symbol {node[1]}")
        return symbols[node[1]]
    if kind == "const":
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "oo": mp.inf}[node[1]]
    if kind == "base":
        return Fraction(int(node[1], node[2]))
    if kind == "matrix":
        return _alike([[_evaluate(entry, symbols, terms) for entry in row] for row in node[1]])[0]
    if kind in ("sum", "prod"):
        return _terms(node, symbols, terms)
    if kind in ("int", "lim", "diff"):
        return _placeholder(node, symbols, terms)
    if kind not in ("add", "mul", "div", "pow", "neg", "fn", "deg", "pct"):
        raise Undefined(kind)
    if kind == "fn":
        return _bounded(_function(node[1], [_evaluate(arg, symbols, terms) for arg in node[2:]]))
    a = _evaluate(node[1], symbols, terms)
    if kind == "neg":
        return [[-x for x in row] for row in a] if isinstance(a, list) else -a
    if kind == "pow" and isinstance(a, list) and node[2] in _TRANSPOSE:
        return transpose(a)
    if kind in ("pct", "deg") and isinstance(a, list):
        raise Undefined(f"{kind} of a matrix")
    if kind == "pct":
        return a / 100
    if kind == "deg":
        return _float(a) * mp.pi / 180
    b = _evaluate(node[2], symbols, terms)
    if isinstance(a, list) or isinstance(b, list):
        return combine(kind, *_alike(a, b))
    if kind == "pow":
        return _bounded(_power(a, b))
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = _float(a), _float(b)
    if kind == "add":
        return _bounded(a + b)
    if kind == "mul":
        return _bounded(a * b)
    if b == 0:
        raise Undefined("division by zero")
    return _bounded(a / b)


def _alike(*values: Number) -> list[Number]:
    """Matrices and numbers with entries of one type: all fractions, or all floats (an exponent stays an integer)."""
    entries = [x for value in values for row in (value if isinstance(value, list) else [[value]]) for x in row]
    if any(isinstance(x, list) for x in entries):
        raise Undefined("a matrix of matrices")
    if all(isinstance(x, Fraction) for x in entries):
        return list(values)
    return [
        [[_float(x) for x in row] for row in value] if isinstance(value, list) else _float(value) for value in values
    ]


_TRANSPOSE = (("sym", "T"), ("sym", "\\top"), ("sym", "\\intercal"))


def _terms(node: Node, symbols: Mapping[str, Number], terms: int) -> Number:
    """A sum or product of a bounded number of terms; an infinite one has a placeholder value."""
    kind, name, low, high, body = node
    first, last = _evaluate(low, symbols, terms), _evaluate(high, symbols, terms)
    if last == mp.inf:
        return _placeholder(node, symbols, terms)
    if not all(isinstance(bound, Fraction) and bound.denominator == 1 for bound in (first, last)):
        raise Undefined("bounds that are not integers")
    count = int(last - first) + 1
    if count > terms:
        raise TooLarge("terms")
    total = Fraction(int(kind == "prod"))
    for k in range(max(0, count)):
        value = _evaluate(body, {**symbols, name: first + k}, terms // max(1, count))
        if isinstance(value, list):
            raise Undefined("a sum of matrices")
        if not (isinstance(total, Fraction) and isinstance(value, Fraction)):
            total, value = _float(total), _float(value)
        total = _bounded(total + value if kind == "sum" else total * value)
    return total


def _placeholder(node: Node, symbols: Mapping[str, Number], terms: int) -> Number:
    """A number in 1..2 for what is not computed, derived from its parts' values; the bound name stands for itself."""
    name, *parts = node[1:]
    marks = [node[0]]
    for point in (Fraction(317, 991), Fraction(5, 2), Fraction(7)):
        for part in parts:
            if not isinstance(part, tuple):
                marks.append(str(part))
                continue
            try:
                value = _float(_evaluate(part, {**symbols, name: point}, terms))
                marks.append(mp.nstr(value, 25))
            except Undefined as error:
                marks.append(type(error).__name__)
    return 1 + Fraction(zlib.crc32("|".join(marks).encode()), 2**32)


def same(a: Number, b: Number, decimal: bool) -> bool:
    """decimal: one side was written as a decimal, so `tolerance` applies; otherwise exact (to 40 digits)."""
    if isinstance(a, list) or isinstance(b, list):  # rows, or entries of a row
        return (
            isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(map(same, a, b, repeat(decimal)))
        )
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return close(a, b) if decimal else a == b
    decimal = decimal and not any(isinstance(x, Fraction) and x.denominator == 1 for x in (a, b))
    a, b = _float(a), _float(b)
    if a == b:
        return True
    difference = abs(a - b)
    if not mp.isfinite(difference):
        return False
    return bool(difference <= mp.mpf(10) ** (-6 if decimal else -40) * min(abs(a), abs(b)))


def difference(a: Number, b: Number) -> Number:
    """a - b; exactly 0 if only rounding error is left."""
    return evaluate(("add", ("sym", "a"), ("neg", ("sym", "b"))), {"a": a, "b": b})


def ratio(a: Number, b: Number) -> Number:
    """a / b, b not 0."""
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _float(a) / _float(b)


def real(a: Number) -> bool:
    return isinstance(a, Fraction | list) or abs(mp.im(a)) <= 1e-40 * abs(a)


def _float(a: Number) -> Any:
    return mp.mpf(a.numerator) / a.denominator if isinstance(a, Fraction) else a


def _bits(a: Fraction) -> int:
    return max(a.numerator.bit_length(), a.denominator.bit_length())


def _bounded(a: Number) -> Number:
    if isinstance(a, Fraction):
        return a if _bits(a) <= MAX_BITS else _float(a)
    if mp.isnan(a):
        raise Undefined("not a number")
    if a != 0 and mp.isfinite(a) and abs(mp.mag(a)) > MAX_MAGNITUDE:
        raise TooLarge("magnitude")
    return a


def _power(a: Number, b: Number) -> Number:
    if isinstance(b, Fraction) and b.denominator == 1:
        n = b.numerator
        if a == 0 and n <= 0:
            raise Undefined("0 to a power that is not positive")
        if isinstance(a, Fraction) and _bits(a) * abs(n) <= MAX_BITS:
            return a**n
    if isinstance(a, Fraction) and isinstance(b, Fraction) and a >= 0 and _bits(b) <= 16:
        root = _root(a, b.denominator)
        if root is not None and _bits(root) * abs(b.numerator) <= MAX_BITS and (root or b > 0):
            return root**b.numerator
    a, b = _float(a), _float(b)
    if a == 0:
        if mp.re(b) <= 0:
            raise Undefined("0 to a power that is not positive")
        return mp.mpf(0)
    if not (mp.isfinite(a) and mp.isfinite(b)):
        raise Undefined("infinite power")
    if mp.mag(b) > 64 or abs(b) * (abs(mp.mag(a)) + 4) > MAX_MAGNITUDE:
        raise TooLarge("power")
    return mp.power(a, b)


def _root(a: Fraction, n: int) -> Fraction | None:
    """The exact n-th root of a fraction, if it has one."""

    def whole(k: int) -> int | None:
        r = math.isqrt(k) if n == 2 else int(mp.nint(mp.root(k, n)))
        return r if r**n == k else None

    if n > 64 or _bits(a) > 180:
        return None
    p, q = whole(a.numerator), whole(a.denominator)
    return None if p is None or q is None else Fraction(p, q)


_MPMATH = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
    "arccot": "acot", "arcsec": "asec", "arccsc": "acsc", "ln": "log", "lg": "log10", "Re": "re", "Im": "im",
    "Gamma": "gamma", "cis": "expj",
}  # fmt: skip
_LIMITS = {  # of an argument's absolute value
    **dict.fromkeys(("Gamma", "zeta"), 1000),
    **dict.fromkeys(("exp", "sinh", "cosh", "tanh"), MAX_MAGNITUDE),
    **dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc", "cis"), 2**MAX_ANGLE_BITS),
}


def _function(name: str, args: list[Number]) -> Number:
    one, exact = args[0], all(isinstance(a, Fraction) for a in args)
    whole = exact and all(a.denominator == 1 for a in args)
    if any(isinstance(a, list) for a in args):
        if name in ("det", "abs") and len(args) == 1 and len(one) == len(one[0]):
            return det(one)
        raise Undefined(f"{name} of a matrix")
    if name in ("max", "min"):
        if not all(real(a) for a in args):
            raise Undefined("no order")
        return (max if name == "max" else min)(args, key=lambda a: mp.re(_float(a)))
    if name in ("gcd", "lcm"):
        if not whole:
            raise Undefined(name)
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*(a.numerator for a in args)))
    if name == "mod":
        if args[1] == 0 or not all(real(a) for a in args):
            raise Undefined(name)
        return one % args[1] if exact else _float(one) - _float(args[1]) * mp.floor(_float(one) / _float(args[1]))
    if name == "binom":
        n, k = args
        if whole and 0 <= k <= n <= 2000:
            return Fraction(math.comb(n.numerator, k.numerator))
        if any(abs(_float(a)) > MAX_FACTORIAL for a in args):
            raise TooLarge(name)
        return mp.binomial(_float(n), _float(k))
    if name == "log" and len(args) == 2:
        below = _function("ln", [args[1]])
        if below == 0:
            raise Undefined("a logarithm to base 1")
        return _function("ln", [one]) / below
    if len(args) != 1 or name == "det":
        raise Undefined(f"{name} of {len(args)}")
    return _of_one(name, one, whole)


def _of_one(name: str, a: Number, whole: bool) -> Number:
    """A function of one number. whole: it is an exact integer."""
    if name == "factorial":
        if whole and 0 <= a <= 1000:
            return Fraction(math.factorial(a.numerator))
        if abs(_float(a)) > MAX_FACTORIAL or (whole and a < 0):
            raise TooLarge(name)
        return mp.factorial(_float(a))
    if name == "factorial2":
        if not whole or not 0 <= a <= 300:
            raise TooLarge(name)
        return Fraction(math.prod(range(a.numerator, 0, -2)))
    if name == "abs":
        return abs(a)
    if name in ("floor", "ceil"):
        if isinstance(a, Fraction):
            return Fraction(math.floor(a) if name == "floor" else math.ceil(a))
        return (mp.floor if name == "floor" else mp.ceil)(a)
    x = _float(a)
    if not mp.isfinite(x) or (x == 0 and name in ("log", "ln", "lg")):
        raise Undefined(f"{name} of {a}")
    if abs(x) > _LIMITS.get(name, mp.inf):
        raise TooLarge(name)
    return getattr(mp, _MPMATH.get(name, name))(x)
