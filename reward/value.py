"""Trees -> numbers: exact fractions while they stay small, 60-digit floats (mpmath) else.

In: a tree of `reward.grammar` without relations or lists, and values for its symbols. Out: Fraction, mpf or mpc, or
`Undefined`. Every step is bounded before it is computed (exponents, factorials, digits), so that no tree within the
grammar's bounds takes long; what is beyond the bounds is `TooLarge`. Must not know: text, golds, rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from mpmath import mp

from reward.grammar import Node

DIGITS = 60
MAX_BITS = 20_000  # of an exact numerator or denominator; beyond: floats
MAX_MAGNITUDE = 10_000_000  # of a float's binary exponent
MAX_FACTORIAL = 1_000_000
MAX_ANGLE_BITS = 200  # of a trigonometric function's argument

Number = Any  # Fraction | mpf | mpc


class Undefined(ArithmeticError):
    """The tree has no value there: division by zero, no number, out of a function's domain."""


class TooLarge(Undefined):
    """Computing it is beyond the bounds."""


def evaluate(node: Node, symbols: Mapping[str, Number]) -> Number:
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
        try:
            return Fraction(int(node[1], node[2]))
        except ValueError as error:
            raise Undefined(str(error)) from None
    if kind not in ("add", "mul", "div", "pow", "neg", "fn", "deg", "pct"):
        raise Undefined(kind)
    if kind == "fn":
        return _bounded(_function(node[1], [evaluate(arg, symbols) for arg in node[2:]]))
    a = evaluate(node[1], symbols)
    if kind == "neg":
        return -a
    if kind == "pct":
        return a / 100
    if kind == "deg":
        return _float(a) * mp.pi / 180
    b = evaluate(node[2], symbols)
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


def same(a: Number, b: Number, decimal: bool) -> bool:
    """decimal: relative tolerance 1e-6, because one side was written as a decimal; else exactly (to 40 digits)."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return abs(a - b) <= Fraction(1, 10**6) * min(abs(a), abs(b)) if decimal else a == b
    a, b = _float(a), _float(b)
    if a == b:
        return True
    difference = abs(a - b)
    if not mp.isfinite(difference):
        return False
    return bool(difference <= mp.mpf(10) ** (-6 if decimal else -40) * min(abs(a), abs(b)) or difference < 1e-50)


def ratio(a: Number, b: Number) -> Number:
    """a / b, b not 0."""
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _float(a) / _float(b)


def real(a: Number) -> bool:
    return isinstance(a, Fraction) or abs(mp.im(a)) < 1e-40


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


_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
_MPMATH = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
    "ln": "log",
}  # fmt: skip


def _function(name: str, args: list[Number]) -> Number:
    exact = all(isinstance(a, Fraction) for a in args)
    whole = exact and all(a.denominator == 1 for a in args)
    one = args[0]
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
        return _function("ln", [one]) / _function("ln", [args[1]])
    if len(args) != 1:
        raise Undefined(f"{name} of {len(args)}")
    if name == "factorial":
        if whole and 0 <= one <= 1000:
            return Fraction(math.factorial(one.numerator))
        if abs(_float(one)) > MAX_FACTORIAL or (whole and one < 0):
            raise TooLarge(name)
        return mp.factorial(_float(one))
    if name == "abs":
        return abs(one)
    if name in ("floor", "ceil"):
        if exact:
            return Fraction(math.floor(one) if name == "floor" else math.ceil(one))
        return (mp.floor if name == "floor" else mp.ceil)(one)
    if name == "sqrt":
        return _power(one, Fraction(1, 2))
    x = _float(one)
    if not mp.isfinite(x):
        raise Undefined("infinite argument")
    if name in ("exp", "sinh", "cosh", "tanh") and abs(x) > MAX_MAGNITUDE:
        raise TooLarge(name)
    if name in _TRIGONOMETRIC and x != 0 and mp.mag(x) > MAX_ANGLE_BITS:
        raise TooLarge(name)
    if name in ("log", "ln", "lg"):
        if x == 0:
            raise Undefined(name)
        return mp.log10(x) if name == "lg" else mp.log(x)
    try:
        return getattr(mp, _MPMATH.get(name, name))(x)
    except (ValueError, ZeroDivisionError) as error:
        raise Undefined(f"{name}: {error}") from None
