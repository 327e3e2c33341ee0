"""Whether two exact values too large to be written out are the same: 2^{20001} + 1 is not 2^{20001}.

In: trees of rational operations on numbers (and symbols), with integer exponents of any size. Out: a truth value, or
None if a tree contains anything else (roots, pi, sums). Compares residues modulo two 61-bit primes, reducing an
exponent that is itself too large by Fermat's little theorem: equal values have equal residues, and different ones
almost never do. Must not know: text, floating-point values.
"""

from __future__ import annotations

import random
from fractions import Fraction

from reward.maths.compare.value import Undefined, evaluate
from reward.maths.parse.grammar import Node

_PRIMES = (4158162654121742501, 2725628042856301111)
_MAX_FACTORS = 50_000  # of a factorial


class _Unknown(Exception):
    """Not a rational operation, or undefined modulo this number."""


def same_residues(a: Node, b: Node) -> bool | None:
    try:
        return all(_residue(a, prime) == _residue(b, prime) for prime in _PRIMES)
    except (_Unknown, Undefined):
        return None


def _residue(node: Node, modulus: int) -> int:
    """modulus: a prime, or for an exponent one less than a prime."""
    kind = node[0]
    if kind in ("num", "dec"):
        return node[1].numerator * _inverse(node[1].denominator, modulus) % modulus
    if kind == "sym" and modulus in _PRIMES:
        return random.Random(f"{node[1]}/{modulus}").randrange(modulus)
    if kind == "pow":
        return _power(node, modulus)
    if node[:2] == ("fn", "factorial"):
        return _factorial(node, modulus)
    if kind not in ("add", "mul", "div", "neg"):
        raise _Unknown
    a = _residue(node[1], modulus)
    if kind == "neg":
        return -a % modulus
    b = _residue(node[2], modulus)
    if kind == "add":
        return (a + b) % modulus
    return a * (b if kind == "mul" else _inverse(b, modulus)) % modulus


def _power(node: Node, modulus: int) -> int:
    base, exponent = _residue(node[1], modulus), _whole(node[2])
    if exponent is None:  # too large to compute: modulo a prime p, a^n is a^(n mod p - 1), also for a = 0 if n > 0
        if modulus not in _PRIMES or not _natural(node[2]):
            raise _Unknown
        exponent = _residue(node[2], modulus - 1) + modulus - 1
    return pow(_inverse(base, modulus), -exponent, modulus) if exponent < 0 else pow(base, exponent, modulus)


def _factorial(node: Node, modulus: int) -> int:
    n = _whole(node[2])
    if n is None or not 0 <= n <= _MAX_FACTORS:
        raise _Unknown
    product = 1
    for factor in range(2, n + 1):
        product = product * factor % modulus
    return product


def _whole(node: Node) -> int | None:
    """The value of an integer that is small enough to compute; None if it is too large."""
    try:
        value = evaluate(node, {})
    except Undefined:
        return None
    if isinstance(value, Fraction):
        if value.denominator != 1:
            raise _Unknown
        return value.numerator
    return None


def _natural(node: Node) -> bool:
    """Whether a tree's value can only be a natural number: sums, products and powers of such, and factorials."""
    if node[0] == "num":
        return bool(node[1].denominator == 1)
    parts = node[2:] if node[:2] == ("fn", "factorial") else node[1:] if node[0] in ("add", "mul", "pow") else ()
    return bool(parts) and all(map(_natural, parts))


def _inverse(value: int, modulus: int) -> int:
    try:
        return pow(value, -1, modulus) if value != 1 else 1
    except ValueError:
        raise _Unknown from None
