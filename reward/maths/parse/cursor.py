"""A cursor over tokens, with which every method of the grammar reads."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from reward.maths.parse.lexer import MAX_DIGITS, Token, Unreadable

Node = tuple[Any, ...]

MAX_DEPTH = 40  # of brackets
END = ("", "")


def number(text: str) -> Node:
    """Digits as a node: ("dec", value) with a point or an exponent, otherwise ("num", value)."""
    exponent = text.replace("E", "e").partition("e")[2]
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise Unreadable("exponent out of bounds")
    return ("dec" if "." in text or exponent else "num", Fraction(text))


class Cursor:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = list(tokens)
        self.at = 0
        self.depth = 0
        self.bars = 0  # open |
        self.rest = -1  # position of the digits left over by a one-digit argument
        self.bound: set[str] = set()  # names that a sum or limit runs over

    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def then(self, count: int) -> list[Token]:
        """The next tokens."""
        return self.tokens[self.at : self.at + count]

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def ahead(self, *values: str) -> bool:
        kind, value = self.peek()
        return kind == "op" and value in values

    def accept(self, *values: str) -> str | None:
        return self.take()[1] if self.ahead(*values) else None

    def expect(self, *values: str) -> str:
        value = self.accept(*values)
        if value is None:
            raise Unreadable(f"expected {values[0]}, got {self.peek()[1]!r}")
        return value

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
