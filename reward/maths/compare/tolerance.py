"""Whether two numbers are the same, one of them written as a decimal.

In: exact values. Out: a truth value. Must not know: text, trees; imports nothing heavy.

If either side is an integer, the values must be equal: 1048576.0 is 1048576, but neither 1048577.0 nor 1048576.9 is.
Otherwise they must agree within 1e-6 relative to the smaller, never absolutely (1.41421356 is sqrt 2; 2.23 is not
2.232). Two finite decimals must also differ by less than one unit in the last place of the shorter, so that no digit
that both write may differ: 12345.67 is not 12345.68 (floating-point noise, 1e-12, is ignored).
"""

from __future__ import annotations

from fractions import Fraction

TOLERANCE = Fraction(1, 10**6)
_NOISE = Fraction(1, 10**12)
_NOISY_PLACES = 20  # a floating-point number has no more
_MAX_PLACES = 5_000


def close(a: Fraction, b: Fraction) -> bool:
    """Whether a and b, one of them written as a decimal, are the same number."""
    if a == b:
        return True
    if a.denominator == 1 or b.denominator == 1:
        return False
    off, size = abs(a - b), min(abs(a), abs(b))
    if off > TOLERANCE * size:
        return False
    places = [_places(x) for x in (a, b)]
    if places[0] is None or places[1] is None:
        return True
    shorter = min(places[0], places[1])
    return off * 10**shorter < 1 or (shorter <= _NOISY_PLACES and off <= _NOISE * size)


def _places(x: Fraction) -> int | None:
    """Digits after the point of a finite decimal; None if it does not end."""
    below, places = x.denominator, [0, 0]
    for at, prime in enumerate((2, 5)):
        while below % prime == 0 and places[at] <= _MAX_PLACES:
            below //= prime
            places[at] += 1
    return max(places) if below == 1 else None
