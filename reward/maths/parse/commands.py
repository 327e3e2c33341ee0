"""Names, functions and commands of the grammar: \\frac, \\sqrt, \\sin, \\sum, \\int, \\lim, matrices.

In: a cursor at such a token. Out: its node (see `grammar`). Must not know: lists, relations, their binding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from reward.maths.parse.cursor import END, Cursor, Node
from reward.maths.parse.lexer import FUNCTIONS, Token, Unreadable

_CONSTANTS = {"pi": "pi", "infty": "oo"}
_BIG = {"sum", "prod", "int", "lim"}
_GEOMETRY = {"choose", "overline", "underline", "ce", "perp", "parallel", "cong"}
_ACCENTS = {"mathbb", "mathcal", "vec", "hat", "bar", "dot", "ddot", "tilde", "mathbf", "boldsymbol", "bm", "mathfrak"}
_INVERSE = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"}
_CALLED = set("fghpqFGHPQITSVuvyE")  # f(2) is a name
ONE: Node = ("num", Fraction(1))


def angle(node: Node) -> bool:
    """pi, 2 pi: a division after it belongs to the argument, as in cos pi/3."""
    return node == ("const", "pi") or (node[0] == "mul" and node[1][0] == "num" and node[2] == ("const", "pi"))


class Commands(Cursor):
    """The grammar has the rest (`grammar.Parser`): these are its methods that are used here."""

    statement: Callable[[], Node]
    items: Callable[[], Node]
    relation: Callable[[], Node]
    sum: Callable[[], Node]
    product: Callable[[], Node]
    power: Callable[[], Node]
    atom: Callable[[], Node]
    group: Callable[[], Node]
    argument: Callable[[], Node]
    exponent: Callable[[], Node]
    starts_factor: Callable[[], bool]

    def whole(self, tokens: Sequence[Token]) -> Node:
        """The tree of a part of the tokens, all of which must be read."""
        parser = type(self)(tokens)
        parser.bound, parser.depth = self.bound, self.depth
        node = parser.relation()
        if parser.peek() != END:
            raise Unreadable(f"left over: {parser.peek()[1]!r}")
        return node

    def symbol(self, name: str) -> Node:
        if name in ("e", "i") and name not in self.bound and not self.ahead("_", "'"):
            return ("const", name)
        while self.accept("'"):
            name += "'"
        if self.accept("_"):
            name += "_" + self.subscript()
        call = self.then(3)
        bracketed = [kind for kind, _ in call] == ["op", "num", "op"] and call[0][1] + call[2][1] == "()"
        if bracketed and (call[1][1] == "0" or name[0] in _CALLED):  # f(2) is a name, and 0 is not a factor
            self.at += 3
            name += f"({call[1][1]})"
        return ("sym", name)

    def subscript(self) -> str:
        """A name's index, which is not read as mathematics."""
        if not self.ahead("{"):
            return self.take()[1]  # a_12 means a_{12} in plain text
        out = ""
        depth = 0
        while True:
            kind, value = self.take()
            if (kind, value) == END:
                raise Unreadable("unclosed subscript")
            depth += (kind, value) == ("op", "{")
            depth -= (kind, value) == ("op", "}")
            if depth == 0:
                return out
            out += value if value not in ("{", "}") else ""

    def command(self) -> Node:
        name = self.take()[1]
        if name in _CONSTANTS:
            return ("const", _CONSTANTS[name])
        if name == "frac":
            return self.fraction()
        if name == "binom":
            if self.ahead("("):
                pair = self.atom()
                if pair[0] != "seq" or len(pair[3]) != 2:
                    raise Unreadable("binom takes two")
                return ("fn", "binom", *pair[3])
            return ("fn", "binom", self.argument(), self.argument())
        if name in ("sqrt", "root", "cbrt"):
            order: Node = ("num", Fraction(3 if name == "cbrt" else 2))
            if self.accept("["):
                order = self.sum()
                self.expect("]")
            node = ("pow", self.argument() if name == "sqrt" else self.power(), ("div", ONE, order))
            self.nothing_left()
            return node
        if name in FUNCTIONS or (name in ("Gamma", "zeta") and self.ahead("(")):
            return self.function(name)
        if name in _BIG:
            return self.big(name)
        if name in _GEOMETRY:
            raise Unreadable("\\" + name)
        if name == "emptyset":
            return ("set", ())
        if name == "i":
            return ("const", "i")
        if name in ("mathbb_R", "j"):
            return ("sym", name)
        if name in _ACCENTS:
            return self.symbol(name + "_" + self.subscript())
        return self.symbol("\\" + name)

    def nothing_left(self) -> None:
        r"""\frac131 and \sqrt71 are rejected: TeX takes one digit each, and a product with the rest is never meant."""
        if self.rest == self.at:
            raise Unreadable("digits behind an argument of one digit")

    def fraction(self) -> Node:
        r"""\frac{a}{b}; \frac{d}{dx} applies to what follows."""
        start = self.at
        above = self.argument()
        below = self.argument()
        self.nothing_left()
        if above == ("sym", "d") and below[0] == "mul" and below[1] == ("sym", "d") and below[2][0] == "sym":
            if not self.starts_factor():
                self.at = start
                raise Unreadable("a derivative of nothing")
            return ("diff", below[2][1], self.product())
        return ("div", above, below)

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self.ahead("^", "_"):
            if self.take()[1] == "^":
                power = self.exponent()
            else:
                base = self.argument()
        if power == ("neg", ONE) and name in _INVERSE:
            name = ("ar" if name.endswith("h") else "arc") + name
            power = None
        args: tuple[Node, ...]
        if self.accept("("):
            inner = self.items()
            args = inner[1] if inner[0] == "list" else (inner,)
            self.expect(")")
        elif self.ahead("{"):
            inner = self.group()
            args = inner[1] if inner[0] == "set" else (inner,)
        else:
            args = (self.bare_argument(),)
        if name == "log" and base is not None:
            args = (*args, base)
        elif base is not None:
            raise Unreadable(f"\\{name} with an index")
        node: Node = ("fn", name, *args)
        return node if power is None else ("pow", node, power)

    def bare_argument(self) -> Node:
        """sin 2x cos y: what follows without brackets, up to the next function, bracket or operator."""
        if self.accept("-"):
            self.deeper()
            node = self.bare_argument()
            self.depth -= 1
            return ("neg", node)
        left = self.power()
        while True:
            kind, value = self.peek()
            if kind == "op" and value == "/" and angle(left):  # cos 2pi/3
                self.take()
                left = ("div", left, self.power())
            elif kind == "sym" or (kind == "cmd" and value not in FUNCTIONS | _BIG | {"choose"}):
                left = ("mul", left, self.power())
            else:
                return left

    def big(self, name: str) -> Node:
        r"""\sum_{k=1}^{n} body, \int_a^b body dx, \lim_{x \to a} body"""
        low: Node | None = None
        high: Node | None = None
        index = ""
        side = ""
        while self.ahead("^", "_"):
            if self.take()[1] == "^":
                high = self.exponent()
            elif name == "int":
                low = self.exponent()
            else:
                self.expect("{")
                kind, index = self.take()
                if kind != "sym":
                    raise Unreadable(f"\\{name} over what?")
                self.expect("=" if name != "lim" else "→")
                low = self.sum() if name != "lim" else self.limit_point()
                side = self.accept("+", "-") or ""
                self.expect("}")
        if name == "int":
            body, index = self.integrand()
            return ("int", index, low, high, body)
        if not index or low is None or (name != "lim" and high is None):
            raise Unreadable(f"\\{name} without bounds")
        self.bound.add(index)
        body = self.product()
        return ("lim", index, low, side, body) if name == "lim" else (name, index, low, high, body)

    def limit_point(self) -> Node:
        r"""The point of a limit; 0^+ is 0 from above."""
        node = ("neg", self.atom()) if self.accept("-") else self.atom()
        if self.ahead("^"):
            self.take()
            braced = self.accept("{")
            sign = self.expect("+", "-")
            if braced:
                self.expect("}")
            self.tokens.insert(self.at, ("op", sign))
        elif self.ahead("/"):
            self.take()
            node = ("div", node, self.atom())
        return node

    def integrand(self) -> tuple[Node, str]:
        """(body, variable): up to the d of the variable, wherever it is in the sum of products."""
        start = self.at
        depth = 0
        for at in range(start, len(self.tokens)):
            kind, value = self.tokens[at]
            depth += (kind, value) in (("op", "("), ("op", "{")) or kind == "begin"
            depth -= (kind, value) in (("op", ")"), ("op", "}")) or kind == "end"
            following = self.tokens[at + 1] if at + 1 < len(self.tokens) else END
            if (kind, value) == ("sym", "d") and following[0] == "sym" and depth >= 0:
                inner, tail = self.tokens[start:at], self.tokens[at + 2 :]
                if depth:  # \frac{dx}{x}: the d is in a numerator
                    inner, tail = [*inner, ("num", "1"), *tail], []
                body = self.whole(inner) if inner else ONE
                self.tokens, self.at = self.tokens[:start] + tail, start
                return body, following[1]
        raise Unreadable("an integral without its d")

    def braces(self) -> Node:
        r"""\{1, 2\}, and \{x \mid x > 2\} or \{x \in \mathbb{R} : x > 2\}"""
        if self.accept("\\}"):
            return ("set", ())
        divider = self.divider()
        bars, self.bars = self.bars, 0
        if divider is not None:
            name = self.whole(self.tokens[self.at : divider])
            self.at = divider + 1
        inner = self.statement()
        self.bars = bars
        self.expect("\\}")
        if divider is not None:
            return ("builder", name, inner)
        return ("set", inner[1] if inner[0] in ("list", "or") else (inner,))

    def divider(self) -> int | None:
        """The position of the only bar or colon between these braces; None for a plain set."""
        depth = 0
        found = []
        for at in range(self.at, len(self.tokens)):
            kind, value = self.tokens[at]
            if depth == 0 and (kind, value) == ("op", "\\}"):
                break
            if kind == "op":
                depth += value in ("(", "[", "{", "\\{")
                depth -= value in (")", "]", "}", "\\}")
                if depth == 0 and value in ("|", ":"):
                    found.append((at, value))
        colons = [at for at, value in found if value == ":"]
        return found[0][0] if len(found) % 2 else colons[0] if len(colons) == 1 else None

    def environment(self) -> Node:
        kind = self.take()[1]
        if not kind.endswith(("matrix", "array", "cases")):
            raise Unreadable(kind)
        if kind == "array":
            self.group()
        cell = self.items if kind == "cases" else self.relation
        rows: list[tuple[Node, ...]] = []
        while self.peek()[0] != "end":
            row = [cell()]
            while self.accept("&"):
                if self.peek()[0] in ("end", "") or self.ahead("\\\\"):
                    break  # & \text{otherwise}, whose word was removed
                row.append(cell())
            rows.append(tuple(row))
            if not self.accept("\\\\"):
                break
        if self.take() != ("end", kind):
            raise Unreadable("unclosed " + kind)
        if kind == "cases" and all(len(row) == 1 for row in rows):
            return ("list", tuple(row[0] for row in rows))
        if kind == "cases":
            return ("set", tuple(row[0] if len(row) == 1 else ("seq", "(", ")", row) for row in rows))
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix with rows of different lengths")
        return ("fn", "det", ("matrix", tuple(rows))) if kind == "vmatrix" else ("matrix", tuple(rows))

    def repeating(self, value: str) -> Node:
        self.take()
        self.expect("{")
        kind, digits = self.take()
        self.expect("}")
        if kind != "num" or not digits.isdigit() or "." not in value:
            raise Unreadable("no repeating decimal")
        places = len(value.partition(".")[2])
        return ("num", Fraction(value + "0" if value.endswith(".") else value) + Fraction(
            int(digits), (10 ** len(digits) - 1) * 10**places))  # fmt: skip
