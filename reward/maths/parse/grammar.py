"""Tidy text -> tree of plain tuples, by a small grammar of our own.

In: the text that `spelling` returns. Out: nested tuples, or `Unreadable`. Nothing is ever evaluated here and no
library is imported: hostile text can only be read or rejected, within bounds on length, nesting and digits. Must not
know: what makes two trees equal.

Nodes: ("num", Fraction) ("dec", Fraction) ("sym", name) ("const", "pi"|"e"|"i"|"oo") ("add", a, b) ("mul", a, b)
("div", a, b) ("pow", a, b) ("neg", a) ("pm", "±"|"∓", a, b) ("fn", name, arg, ...) ("deg", a) ("pct", a)
("base", digits, radix) ("residue", a, modulus) ("seq", open, close, items) ("set", items) ("builder", name, conditions)
("list", items) ("list", items, "and"|";") ("or", items) ("ratio", items) ("matrix", rows)
("rel", (side, op, side, ...)) ("setop", op, a, b)
("sum"|"prod", name, from, to, body) ("int", name, from|None, to|None, body) ("lim", name, to, side, body)
("diff", name, body).
Examples: "\\frac12x" is ("mul", ("div", 1, 2), x); "1 \\frac12" is 1 + 1/2; "[1,2)" is ("seq", "[", ")", (1, 2)).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from reward.maths.parse.commands import Commands
from reward.maths.parse.cursor import END, Node, number
from reward.maths.parse.lexer import Unreadable, tokens

MAX_CHARS = 2000
MAX_TREE_DEPTH = 100

_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?!\d|,\d)")
_DOTTED = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:\.\d{3}){2,})(?![\d.])")
_RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "≈", "∈", "≡"}
_CLOSERS = {")", "]", "}", "\\}", ")|", "⌋", "⌉", "&", "\\\\"}


def parse(text: str, thousands: bool = True) -> Node:
    """The tree of a tidy text. thousands: read 1,234 as one number (False: as a list)."""
    if not text or len(text) > MAX_CHARS:
        raise Unreadable("empty" if not text else "too long")
    if thousands:
        text = _THOUSANDS.sub(lambda m: m[1].replace(",", "") if _outside(text, m.start()) else m[1], text)
    text = _DOTTED.sub(lambda m: m[1].replace(".", ""), text)
    parser = _Parser(tokens(text))
    try:
        tree = parser.statement()
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if parser.peek() != END:
        raise Unreadable(f"left over: {parser.peek()[1]!r}")
    _check_depth(tree)
    return tree


def _check_depth(tree: Node) -> None:
    """Code that walks the tree may recurse: reject 1+1+... with more terms than the limit, and x!!!!..."""
    level: list[Any] = [tree]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in node if isinstance(child, tuple)]
        if not level:
            return
    raise Unreadable("nested too deeply")


def _outside(text: str, at: int) -> bool:
    """Whether position `at` is outside round, square and set brackets (1,234 inside them is a pair)."""
    head = text[:at]
    return head.count("(") + head.count("[") + head.count("\\{") <= (
        head.count(")") + head.count("]") + head.count("\\}")
    )


def _group(node: Node) -> Node:
    """[x] within arithmetic is a bracket, not a list with one item."""
    return node[3][0] if node[0] == "seq" and node[1:3] == ("[", "]") and len(node[3]) == 1 else node


def _times(left: Node, right: Node, fraction: bool) -> Node:
    """Side by side: a product; 1\\frac12, 33\\frac13\\% and 22\\frac12^\\circ are mixed numbers."""
    bare = right[1] if right[0] in ("pct", "deg") else right
    if (
        fraction
        and left[0] == "num"
        and bare[0] == "div"
        and bare[1][0] == bare[2][0] == "num"
        and bare[1][1] < bare[2][1]
    ):
        mixed = ("add", left, bare)
        return mixed if bare is right else (right[0], mixed)
    return ("mul", _group(left), _group(right))


class _Parser(Commands):
    """Recursive descent; a method for each level of binding, loosest first."""

    # lists, relations, set operations -------------------------------------------------
    def statement(self) -> Node:
        """a; b; c  >  a, b and c  >  a = b"""
        rows = [self.items()]
        while self.accept(";"):
            if self.peek() == END:
                break
            rows.append(self.items())
        if len(rows) == 1:
            return rows[0]
        return ("list", tuple(("seq", "(", ")", row[1]) if row[0] == "list" else row for row in rows), ";")

    def items(self) -> Node:
        """One item as it is, several as a list, or as "or" if only "or" separates them."""
        out = [self.relation()]
        joints = set()
        while joint := self.accept(",", "and", "or"):
            joints.add(joint)
            while joint := self.accept("and", "or"):
                joints.add(joint)
            if self.peek() == END or self.ahead(*_CLOSERS):
                break
            out.append(self.relation())
        if len(out) == 1:
            return out[0]
        if "or" in joints and "and" not in joints:
            return ("or", tuple(out))
        return ("list", tuple(out), "and") if "and" in joints else ("list", tuple(out))

    def relation(self) -> Node:
        parts: list[Any] = [self.union()]
        while op := self.accept(*_RELATIONS):
            parts += [op, self.union()]
        if self.accept("pmod"):
            parts[-1] = ("residue", parts[-1], self.argument() if self.ahead("{") else self.sum())
        elif self.ahead("(") and self.then(2)[1:] == [("op", "mod")]:
            self.take(), self.take()
            parts[-1] = ("residue", parts[-1], self.sum())
            self.expect(")")
        return parts[0] if len(parts) == 1 else ("rel", tuple(parts))

    def union(self) -> Node:
        left = self.ratio()
        while op := self.accept("∪", "∩", "∖"):
            left = ("setop", op, left, self.ratio())
        return left

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.accept(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else ("ratio", tuple(parts))

    # arithmetic -----------------------------------------------------------------------
    def sum(self) -> Node:
        self.deeper()
        left: Node | None = None
        while op := self.accept("+", "-", "±", "∓") or ("" if left else "+"):
            right = self.product()
            left, right = left and _group(left), right if left is None and op == "+" else _group(right)
            if op in ("±", "∓"):
                left = ("pm", op, left or ("num", Fraction(0)), right)
            elif left is None:
                left = right if op == "+" else ("neg", right)
            else:
                left = ("add", left, right if op == "+" else ("neg", right))
        self.depth -= 1
        assert left is not None
        return left

    def product(self) -> Node:
        left = self.signed()
        while True:
            if op := self.accept("*", "/", "mod"):
                right = self.signed()
                left, right = _group(left), _group(right)
                left = {"*": ("mul", left, right), "/": ("div", left, right), "mod": ("fn", "mod", left, right)}[op]
            elif self.ahead("(") and self.then(2)[1:] == [("op", "mod")]:
                return left
            elif self.starts_factor():
                begins = self.peek()
                if begins[0] == "num" and self.tokens[self.at - 1][0] == "num":
                    left = self.mixed(left)
                    continue
                left = _times(left, self.power(), begins == ("cmd", "frac"))
            else:
                return left

    def mixed(self, left: Node) -> Node:
        """1 1/2 in plain text; any other two numbers side by side are not a number."""
        rest = self.then(3)
        plain = left[0] == "num" and len(rest) == 3 and rest[1] == ("op", "/") and rest[0][0] == rest[2][0] == "num"
        if not plain or not (rest[0][1].isdigit() and rest[2][1].isdigit()):
            raise Unreadable("two numbers side by side")
        above, _, below = (self.take()[1] for _ in range(3))
        return ("add", left, ("div", number(above), number(below)))

    def starts_factor(self) -> bool:
        kind, value = self.peek()
        if kind == "op":
            return value in ("(", "{", "|(", "⌊", "⌈", "[", "\\{") or (value == "|" and not self.bars)
        return kind in ("num", "based", "sym", "begin") or (kind == "cmd" and value != "choose")

    def signed(self) -> Node:
        if self.accept("-"):
            self.deeper()
            node = self.signed()
            self.depth -= 1
            return ("neg", node)
        if self.accept("+"):
            return self.signed()
        return self.power()

    def power(self) -> Node:
        base = self.atom()
        while True:
            if self.accept("^"):
                base = ("pow", _group(base), self.exponent())
            elif self.accept("!"):
                base = ("fn", "factorial2" if self.accept("!") else "factorial", base)
            elif self.accept("%"):
                base = ("pct", base)
            elif self.accept("°"):
                base = ("deg", self.minutes(base))
            elif base[0] == "num" and self.accept("_"):
                base = ("base", str(base[1]), self.radix())
            else:
                return base

    def minutes(self, degrees: Node) -> Node:
        """45 degrees 30' 15''"""
        for size in (60, 3600):
            if [kind for kind, _ in self.then(2)] != ["num", "op"] or self.then(2)[1][1] != "'":
                return degrees
            degrees = ("add", degrees, ("div", number(self.take()[1]), ("num", Fraction(size))))
            while self.accept("'"):
                pass
        return degrees

    def radix(self) -> int:
        radix = number(self.take()[1]) if self.peek()[0] == "num" else self.argument()
        if radix[0] != "num" or radix[1].denominator != 1 or not 2 <= radix[1] <= 36:
            raise Unreadable("base must be 2..36")
        return int(radix[1])

    def exponent(self) -> Node:
        if self.accept("-"):
            return ("neg", self.exponent())
        if self.peek()[0] == "num":
            return number(self.take()[1])
        return self.argument()

    def argument(self) -> Node:
        """One argument in TeX's sense: a group or one character."""
        kind, value = self.peek()
        if kind == "op" and value == "{":
            return self.group()
        if kind == "num" and value[:2].isdigit() and len(value) > 1:
            self.tokens[self.at] = ("num", value[1:])
            self.rest = self.at
            return number(value[0])
        return self.atom()

    def group(self) -> Node:
        self.expect("{")
        if self.accept("}"):
            raise Unreadable("empty group")
        bars, self.bars = self.bars, 0
        inner = self.statement()
        if self.peek() == ("cmd", "choose"):
            self.take()
            inner = ("fn", "binom", inner, self.sum())
        elif self.accept("over"):
            inner = ("div", inner, self.sum())
        self.bars = bars
        self.expect("}")
        return ("set", inner[1]) if inner[0] == "list" else inner

    def bracket(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        if closing := self.accept(")", "]"):
            self.bars = bars
            return ("seq", opening, closing, ())
        inner = self.statement()
        self.bars = bars
        closing = self.expect(")", "]")
        if inner[2:] == (";",):  # (1, 1; 2, 2)
            flat = (row[3] if row[0] == "seq" else (row,) for row in inner[1])
            return ("seq", opening, closing, tuple(item for row in flat for item in row))
        if inner[0] == "list":
            return ("seq", opening, closing, inner[1])
        if opening == "(" and closing == ")":
            return inner
        return ("seq", opening, closing, (inner,))

    def atom(self) -> Node:
        self.deeper()
        node = self.primary()
        self.depth -= 1
        return node

    def primary(self) -> Node:
        kind, value = self.peek()
        if kind == "num":
            self.take()
            if self.peek() == ("cmd", "overline"):
                return self.repeating(value)
            return number(value)
        if kind == "based":
            self.take()
            self.expect("_")
            return ("base", value, self.radix())
        if kind == "sym":
            self.take()
            return self.symbol(value)
        if kind == "cmd":
            return self.command()
        if kind == "begin":
            return self.environment()
        if kind != "op":
            raise Unreadable("ends too early")
        if value == "{":
            return self.group()
        if value in ("(", "["):
            self.take()
            return self.bracket(value)
        if value == "\\{":
            self.take()
            return self.braces()
        pairs = {"|": ("|", "abs"), "|(": (")|", "abs"), "⌊": ("⌋", "floor"), "⌈": ("⌉", "ceil")}
        if value in pairs:
            self.take()
            closing, name = pairs[value]
            self.bars += value == "|"
            inner = self.sum()
            self.bars -= value == "|"
            self.expect(closing)
            return ("fn", name, inner)
        raise Unreadable(f"unexpected {value!r}")
