"""Whether two exact values too large to be written out are the same: 2^{20001} + 1 is not 2^{20001}.

In: trees of rational operations on numbers (and symbols), with integer exponents of any size. Out: a truth value, or
None if a tree contains anything else (roots, pi). Compares residues modulo two 61-bit primes, reducing towers of
exponents by Euler's theorem: equal values have equal residues, and different ones almost never do. Must not know:
text, floating-point values.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction

from reward.maths.compare.value import MAX_TERMS, Undefined, evaluate, real
from reward.maths.meaning import some
from reward.maths.parse.grammar import Node

# p - 1 has no prime factor above 61, and so neither has any number in its chain of Euler's phi
_PRIMES = (4158162654121742501, 2725628042856301111)
_SMALL = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
_MAX_FACTORS = 50_000  # of a factorial or binomial coefficient


class _Unknown(Exception):
    """Not a rational operation, or undefined modulo this number."""


def same_residues(a: Node, b: Node) -> bool | None:
    try:
        return all(_residue(a, prime, {}) == _residue(b, prime, {}) for prime in _PRIMES)
    except (_Unknown, Undefined):
        return None


def _residue(node: Node, modulus: int, bound: Mapping[str, Fraction]) -> int:
    """bound: values of the names that a sum or product runs over."""
    kind = node[0]
    if kind in ("num", "dec"):
        return _fraction(node[1], modulus)
    if kind == "sym":
        if node[1] in bound:
            return _fraction(bound[node[1]], modulus)
        if modulus not in _PRIMES:
            raise _Unknown
        return random.Random(f"{node[1]}/{modulus}").randrange(modulus)
    if kind == "pow":
        return _power(node, modulus, bound)
    if kind == "fn" and node[1] in ("factorial", "binom"):
        return _product(node, modulus, bound)
    if kind in ("sum", "prod"):
        return _terms(node, modulus, bound)
    if kind not in ("add", "mul", "div", "neg", "pct"):
        raise _Unknown
    a = _residue(node[1], modulus, bound)
    if kind == "neg":
        return -a % modulus
    if kind == "pct":
        return a * _inverse(100, modulus) % modulus
    b = _residue(node[2], modulus, bound)
    if kind == "add":
        return (a + b) % modulus
    return a * (b if kind == "mul" else _inverse(b, modulus)) % modulus


def _power(node: Node, modulus: int, bound: Mapping[str, Fraction]) -> int:
    base, exponent = _residue(node[1], modulus, bound), _whole(node[2], bound)
    if exponent is None:  # too large to compute: a^n is a^(n mod phi + phi) for every large n
        if not _natural(node[2]):
            raise _Unknown
        phi = _phi(modulus)
        exponent = _residue(node[2], phi, bound) + phi
    return pow(_inverse(base, modulus), -exponent, modulus) if exponent < 0 else pow(base, exponent, modulus)


def _product(node: Node, modulus: int, bound: Mapping[str, Fraction]) -> int:
    """n!, or n over k"""
    n, *rest = (_whole(part, bound) for part in node[2:])
    if n is None or n < 0:
        raise _Unknown
    least = 1
    if node[1] == "binom":
        k = rest[0]
        if k is None or not 0 <= k <= n or modulus not in _PRIMES or n >= modulus:
            raise _Unknown
        k = min(k, n - k)
        least = n - k + 1
    if n - least > _MAX_FACTORS:
        raise _Unknown
    above = below = 1
    for factor in range(least, n + 1):
        above = above * factor % modulus
        below = below * (factor - least + 1) % modulus
    return above if node[1] == "factorial" else above * _inverse(below, modulus) % modulus


def _terms(node: Node, modulus: int, bound: Mapping[str, Fraction]) -> int:
    kind, name, low, high, body = node
    first, last = _whole(low, bound), _whole(high, bound)
    if first is None or last is None or last - first >= MAX_TERMS or bound:
        raise _Unknown
    total = int(kind == "prod")
    for k in range(first, last + 1):
        value = _residue(body, modulus, {name: Fraction(k)})
        total = (total + value if kind == "sum" else total * value) % modulus
    return total


def _whole(node: Node, bound: Mapping[str, Fraction]) -> int | None:
    """The value of an integer that is small enough to compute; None if it is too large."""
    try:
        value = evaluate(node, bound)
    except Undefined:
        return None
    if isinstance(value, Fraction):
        if value.denominator != 1:
            raise _Unknown
        return value.numerator
    return None


def _natural(node: Node) -> bool:
    """Whether a tree's value can only be a natural number."""
    if not _integral(node):
        return False
    if not some(node, "neg"):
        return True
    try:
        return bool(real(value := evaluate(node, {})) and value > 0)
    except Undefined:
        return False


def _integral(node: Node) -> bool:
    if node[0] == "num":
        return bool(node[1].denominator == 1)
    if node[0] in ("add", "mul", "neg"):
        return all(map(_integral, node[1:]))
    if node[0] == "pow":
        return _integral(node[1]) and _natural(node[2])
    return node[:2] == ("fn", "factorial") and _natural(node[2])


def _fraction(value: Fraction, modulus: int) -> int:
    return value.numerator * _inverse(value.denominator, modulus) % modulus


def _inverse(value: int, modulus: int) -> int:
    try:
        return pow(value, -1, modulus) if value != 1 else 1
    except ValueError:
        raise _Unknown from None


def _phi(number: int) -> int:
    phi, rest = number, number
    if number in _PRIMES:
        return number - 1
    for prime in _SMALL:
        if rest % prime == 0:
            phi -= phi // prime
            while rest % prime == 0:
                rest //= prime
    if rest != 1:
        raise _Unknown
    return phi
