"""Mathematical text -> tree of plain tuples, by a small grammar of our own.

In: an answer as a model or a data set writes it (LaTeX, plain or unicode). Out: nested tuples, or `Unreadable`.
Nothing is ever evaluated here and no library is imported: hostile text can only be read or refused, within bounds on
length, nesting and digits. Must not know: what makes two trees equal.

Nodes: ("num", Fraction) ("dec", Fraction) ("sym", name) ("const", "pi"|"e"|"i"|"oo") ("add", a, b) ("mul", a, b)
("div", a, b) ("pow", a, b) ("neg", a) ("pm", a, b) ("fn", name, arg, ...) ("deg", a) ("pct", a) ("base", digits, b)
("seq", open, close, items) ("set", items) ("list", items) ("ratio", items) ("matrix", rows)
("rel", (side, op, side, ...)) ("setop", op, a, b).
Examples: "\\frac12x" is ("mul", ("div", 1, 2), x); "1 \\frac12" is 1 + 1/2; "[1,2)" is ("seq", "[", ")", (1, 2)).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]

MAX_CHARS = 2000
MAX_DEPTH = 40  # of brackets
MAX_TREE_DEPTH = 100
MAX_DIGITS = 1000


class Unreadable(ValueError):
    """The text is no mathematics that this grammar knows (perhaps words), or is beyond its bounds."""


# ------------------------------------------------------------------ text -> tidy text

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "√": r"\sqrt ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset ", "º": "°",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "′": "'", "’": "'", "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "，": ", ", "。": ".", "（": "(", "）": ")",
    "€": "", "£": "", "¥": "",
}  # fmt: skip
_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_TRANSLATE = str.maketrans(_UNICODE)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNITS = (
    "mm|cm|dm|km|nm|ft|in|yd|mi|kg|mg|lb|lbs|oz|ml|mL|hr|hrs|min|mins|sec|secs|mph|kph|rpm|Hz|cents?|am|pm|AM|PM|USD|"
    "sq|units?|m/s|km/h|cm/s"
)
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arsinh", "arcosh",
    "artanh", "log", "ln", "lg", "exp", "sqrt", "abs", "max", "min", "gcd", "lcm", "floor", "ceil", "binom",
}  # fmt: skip
_ALIASES = {
    "arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "ctg": "cot", "tg": "tan", "cosec": "csc",
}  # fmt: skip
_WORD = r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|rm|bf|operatorname\*?)"
_RULES = [
    (r"\\\\", r" \\cr "),  # a matrix' line end, before a lone backslash means anything
    (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m[0]) + "}"),
    (r"\\(?:boxed|fbox)(?![a-zA-Z])", ""),
    (r"\\left\s*\|", r"\\lvert "),
    (r"\\right\s*\|", r"\\rvert "),
    (r"\\(?:left|right)\s*\.", ""),
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
    (r"\\\$|\\[()\[\]](?!\w)|\$", " "),
    (r",\\!\s*", ","),
    (r"\\!", ""),
    (r"\{,\}", ","),
    (r"(?<=\d)\s*\\[,;: ]\s*(?=\d{3}(?!\d))", ""),
    (r"\\(?:[,;: >]|q?quad(?![a-zA-Z])|(?:display|text)style(?![a-zA-Z])|limits(?![a-zA-Z]))|~", " "),
    (r"\\(?:[dtc]frac)(?![a-zA-Z])", r"\\frac"),
    (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    (r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}|\{\s*°\s*\}|°)|\\degree(?![a-zA-Z])|(?<=\d)\s*degrees?\b", "°"),
    (_WORD + r"\s*\{\s*degrees?\s*\}", "°"),
    (_WORD + r"\s*\{\s*(?:percent|per cent)\s*\}|\\%|(?<=[\d}])\s*(?:percent|per cent)\b", "%"),
    (_WORD + r"\s*\{\s*,?\s*(and|or)\s*\}", r" \1 "),
    (r"(\d)\s*" + _WORD + r"\s*\{\s*(hundred|thousand|million|billion|trillion)\b", r"\1 \2 \\text{"),
    (r"(\d)\s*(hundred|thousand|million|billion|trillion)\b", lambda m: f"{m[1]}*10^{{{_SCALES[m[2]]}}}"),
    (r"\\operatorname\*?\s*\{\s*(\w+)\s*\}|\\mathrm\s*\{\s*(\w{2,})\s*\}", lambda m: "\\" + (m[1] or m[2]) + " ")
    ,
    # words behind a number are its unit: 17\text{ miles}, 865 \mbox{ inches}^2
    (
        r"(?:(?<=[\d})°%!])|(?<=\\pi))\s*" + _WORD + r"\s*\{(?!\s*[ap]\.?\s?m\b)[^{}]*\}"
        r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?",
        " ",
    ),
    (_WORD + r"\s*\{([^{}]*)\}", r" \1 "),
    (
        r"(?<=[\d})%°])(?:\s*(?:" + _UNITS + r")|\s+(?!and\b|or\b|mod\b|choose\b|log\b|sin\b|cos\b|tan\b|sqrt\b|pi\b|"
        r"in\b\s*[\[({])[a-zA-Z]{3,})(?:\s+[a-zA-Z]{2,})*(?:\s*\^\s*(?:\{\s*\d+\s*\}|\d))?\s*\.?\s*$",
        "",
    ),
]  # fmt: skip
_COMPILED: list[tuple[re.Pattern[str], Any]] = [(re.compile(pattern), to) for pattern, to in _RULES]


def tidy(text: str) -> str:
    """One spelling for the many ways of writing the same thing; units and typography go."""
    text = text.translate(_TRANSLATE)
    for pattern, to in _COMPILED:
        text = pattern.sub(to, text)
    text = re.sub(r"^\s*(?:=|\\approx(?![a-z]))", "", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;").strip()


# ------------------------------------------------------------------ tidy text -> tokens

_TOKEN = re.compile(
    r"\\(?P<env>begin|end)\s*\{\s*(?P<name>[a-z]+)\*?\s*\}|(?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?)|(?P<cmd>\\(?:[a-zA-Z]+|[{}|\\]))|(?P<word>[a-zA-Z]+)"
    r"|(?P<op><=|>=|!=|==|\*\*|[-+*/^_(){}\[\]|,;:=<>!%°&'])|(?P<space>\s+)"
)
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_COMMANDS = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "≈", "simeq": "≈",
    "in": "∈", "{": "\\{", "}": "\\}", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|(", "rvert": ")|", "vert": "|",
    "mid": "|", "cup": "∪", "cap": "∩", "setminus": "∖", "backslash": "∖", "pm": "±", "mp": "±", "bmod": "mod",
    "mod": "mod", "pmod": "mod", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "lbrack": "[",
    "rbrack": "]", "langle": "(", "rangle": ")", "cr": "\\\\",
}  # fmt: skip
_OPS = {"**": "^", "==": "="}
_UNSUPPORTED = {"int", "sum", "prod", "lim", "iint", "oint", "partial", "nabla", "ldots", "dots", "cdots", "forall"}


def _words(run: str) -> list[tuple[str, str]]:
    """A run of letters: known function names, and and/or, else single variables; a long word is no mathematics."""
    if run.lower() in ("no", "yes", "on", "not", "all", "odd", "even", "none"):
        raise Unreadable(f"a word: {run}")
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(run):
        for size in (7, 6, 5, 4, 3, 2):
            name = run[at : at + size]
            known = _ALIASES.get(name, name)
            if len(name) == size and (known in FUNCTIONS or known in ("pi", "theta", "infty", "and", "or", "mod")):
                kind = "op" if known in ("and", "or", "mod") else "cmd"
                if kind == "op" and size != len(run):
                    continue  # "or" inside "for"
                out.append((kind, known))
                at += size
                break
        else:
            out.append(("sym", run[at]))
            at += 1
    if sum(kind == "sym" for kind, _ in out) > 3:
        raise Unreadable(f"a word: {run[:40]}")
    return out


def _tokens(text: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(f"unknown character {text[at]!r}")
        at = match.end()
        kind, value = str(match.lastgroup), match[0]
        if match["env"]:
            out.append((match["env"], match["name"]))
        elif kind == "num":
            if len(value) > MAX_DIGITS:
                raise Unreadable("too many digits")
            out.append(("num", value))
        elif kind == "cmd":
            name = value[1:]
            if name in _UNSUPPORTED:
                raise Unreadable(value)
            name = _ALIASES.get(name, name)
            out.append(("op", _COMMANDS[name]) if name in _COMMANDS else ("cmd", name))
        elif kind == "word":
            out.extend(_words(value))
        elif kind == "op":
            out.append(("op", _OPS.get(value, value)))
        else:
            out.append(("space", " "))
    return out


# ------------------------------------------------------------------ tokens -> tree

_RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "≈", "∈"}
_CLOSERS = {")", "]", "}", "\\}", ")|", "⌋", "⌉", "&", "\\\\"}
_CONSTANTS = {"pi": "pi", "infty": "oo"}
END = ("", "")


def _number(text: str) -> Node:
    exponent = text.replace("E", "e").partition("e")[2]
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise Unreadable("exponent out of bounds")
    return ("dec" if "." in text or exponent else "num", Fraction(text))


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0  # open |

    def spaces(self) -> bool:
        start = self.at
        while self.at < len(self.tokens) and self.tokens[self.at][0] == "space":
            self.at += 1
        return self.at > start

    def peek(self) -> tuple[str, str]:
        self.spaces()
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def behind(self) -> int:
        """Where the token before the next one is."""
        at = self.at - 1
        while self.tokens[at][0] == "space":
            at -= 1
        return at

    def take(self) -> tuple[str, str]:
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

    # lists, relations, set operations -------------------------------------------------
    def statement(self) -> Node:
        """a; b; c  >  a, b and c  >  a = b"""
        rows = [self.items()]
        while self.accept(";"):
            rows.append(self.items())
        if len(rows) == 1:
            return rows[0][0] if len(rows[0]) == 1 else ("list", tuple(rows[0]))
        return ("list", tuple(row[0] if len(row) == 1 else ("seq", "(", ")", tuple(row)) for row in rows))

    def items(self) -> list[Node]:
        out = [self.relation()]
        while self.accept(",", "and", "or"):
            while self.accept("and", "or"):
                pass
            if self.peek() == END or self.ahead(*_CLOSERS):
                break
            out.append(self.relation())
        return out

    def relation(self) -> Node:
        parts: list[Any] = [self.union()]
        while op := self.accept(*_RELATIONS):
            parts += [op, self.union()]
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
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        left: Node | None = None
        while True:
            op = self.accept("+", "-", "±") if left is not None or self.ahead("+", "-", "±") else "+"
            if op is None:
                break
            right = self.product()
            if left is None:
                left = right if op == "+" else ("neg", right) if op == "-" else ("pm", ("num", Fraction(0)), right)
            else:
                left = ("pm", left, right) if op == "±" else ("add", left, right if op == "+" else ("neg", right))
        self.depth -= 1
        assert left is not None
        return left

    def product(self) -> Node:
        left = self.signed()
        while True:
            if op := self.accept("*", "/", "mod"):
                right = self.signed()
                left = (
                    ("mul", left, right)
                    if op == "*"
                    else ("div", left, right)
                    if op == "/"
                    else ("fn", "mod", left, right)
                )
            elif self.starts_factor():
                before = self.at
                if self.peek()[0] == "num" and self.tokens[self.behind()][0] == "num":
                    left = self.mixed(left)
                    continue
                right = self.power()
                whole_and_part = (
                    left[0] == "num"
                    and self.tokens[before] == ("cmd", "frac")
                    and right[0] == "div"
                    and right[1][0] == right[2][0] == "num"
                    and right[1][1] < right[2][1]
                )
                left = ("add" if whole_and_part else "mul", left, right)
            else:
                return left

    def mixed(self, left: Node) -> Node:
        """1 1/2 in plain text; anything else that puts two numbers side by side is no number."""
        rest = [t for t in self.tokens[self.at : self.at + 6] if t[0] != "space"][:3]
        plain = left[0] == "num" and len(rest) == 3 and rest[1] == ("op", "/") and rest[0][0] == rest[2][0] == "num"
        if not plain or not (rest[0][1].isdigit() and rest[2][1].isdigit()):
            raise Unreadable("two numbers side by side")
        part = ("div", _number(self.take()[1]), (self.take(), _number(self.take()[1]))[1])
        return ("add", left, part)

    def starts_factor(self) -> bool:
        kind, value = self.peek()
        if kind == "op":
            return value in ("(", "{", "|(", "⌊", "⌈", "[") or (value == "|" and not self.bars)
        return kind in ("num", "sym", "begin") or (kind == "cmd" and value != "choose")

    def signed(self) -> Node:
        if self.accept("-"):
            return ("neg", self.signed())
        if self.accept("+"):
            return self.signed()
        return self.power()

    def power(self) -> Node:
        base = self.atom()
        while True:
            if self.accept("^"):
                base = ("pow", base, self.exponent())
            elif self.accept("!"):
                base = ("fn", "factorial", base)
            elif self.accept("%"):
                base = ("pct", base)
            elif self.accept("°"):
                base = ("deg", base)
            elif base[0] == "num" and self.accept("_"):
                radix = self.argument()
                if radix[0] != "num" or not 2 <= radix[1] <= 36:
                    raise Unreadable("base must be 2..36")
                base = ("base", str(base[1]), int(radix[1]))
            else:
                return base

    def exponent(self) -> Node:
        if self.accept("-"):
            return ("neg", self.exponent())
        if self.peek()[0] == "num":
            return _number(self.take()[1])
        return self.argument()

    def argument(self) -> Node:
        """What TeX takes as one argument: a group, or one character."""
        kind, value = self.peek()
        if kind == "op" and value == "{":
            return self.group()
        if kind == "num" and value[:2].isdigit() and len(value) > 1:
            self.tokens[self.at] = ("num", value[1:])
            return _number(value[0])
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
        if inner[0] == "list":
            return ("seq", opening, closing, inner[1])
        if opening == "(" and closing == ")":
            return inner
        return ("seq", opening, closing, (inner,))

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        node = self.primary()
        self.depth -= 1
        return node

    def primary(self) -> Node:
        kind, value = self.peek()
        if kind == "num":
            self.take()
            if self.peek() == ("cmd", "overline"):
                return self.repeating(value)
            return _number(value)
        if kind == "sym":
            self.take()
            return self.symbol(value)
        if kind == "cmd":
            return self.command()
        if kind == "begin":
            return self.matrix()
        if kind != "op":
            raise Unreadable("ends too early")
        if value == "{":
            return self.group()
        if value in ("(", "["):
            self.take()
            return self.bracket(value)
        if value == "\\{":
            self.take()
            if self.accept("\\}"):
                return ("set", ())
            inner = self.statement()
            self.expect("\\}")
            return ("set", inner[1] if inner[0] == "list" else (inner,))
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

    def symbol(self, name: str) -> Node:
        if name in ("e", "i") and not self.ahead("_", "'"):
            return ("const", name)
        while self.accept("'"):
            name += "'"
        if self.accept("_"):
            name += "_" + self.subscript()
        return ("sym", name)

    def subscript(self) -> str:
        """A name's index, not read as mathematics."""
        if not self.ahead("{"):
            return self.take()[1][:1] if self.peek()[0] == "num" else self.take()[1]
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
            return ("div", self.argument(), self.argument())
        if name == "binom" and self.ahead("{"):
            return ("fn", "binom", self.argument(), self.argument())
        if name == "sqrt":
            if self.accept("["):
                order = self.sum()
                self.expect("]")
                return ("pow", self.argument(), ("div", ("num", Fraction(1)), order))
            return ("pow", self.argument(), ("div", ("num", Fraction(1)), ("num", Fraction(2))))
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("choose", "overline", "underline", "ce"):
            raise Unreadable("\\" + name)
        if name in ("mathbb", "mathcal", "vec", "hat", "bar", "dot", "ddot", "tilde", "overrightarrow"):
            return self.symbol(name + "_" + self.subscript())
        return self.symbol("\\" + name)

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self.ahead("^", "_"):
            if self.take()[1] == "^":
                power = self.exponent()
            else:
                base = self.argument()
        inverse = power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")
        if inverse:
            name = ("ar" if name.endswith("h") else "arc") + name
            power = None
        args: tuple[Node, ...]
        if self.accept("("):
            args = tuple(self.items())
            self.expect(")")
        elif self.ahead("{"):
            inner = self.group()
            args = inner[1] if inner[0] == "set" else (inner,)
        else:
            args = (self.bare_argument(),)
        if name == "log" and base is not None:
            args = (*args, base)
        node: Node = ("fn", name, *args)
        return node if power is None else ("pow", node, power)

    def bare_argument(self) -> Node:
        """sin 2x cos y: what follows without brackets, up to the next function, bracket or operator."""
        if self.accept("-"):
            return ("neg", self.bare_argument())
        left = self.power()
        while True:
            kind, value = self.peek()
            if not (kind == "sym" or (kind == "cmd" and value not in FUNCTIONS | {"choose"})):
                return left
            left = ("mul", left, self.power())

    def matrix(self) -> Node:
        kind = self.take()[1]
        if not kind.endswith(("matrix", "array")):
            raise Unreadable(kind)
        if kind == "array":
            self.group()
        rows: list[tuple[Node, ...]] = []
        while self.peek()[0] != "end":
            row = [self.relation()]
            while self.accept("&"):
                row.append(self.relation())
            rows.append(tuple(row))
            if not self.accept("\\\\"):
                break
        if self.take() != ("end", kind):
            raise Unreadable("unclosed matrix")
        return ("matrix", tuple(rows))


def parse(text: str, thousands: bool = True) -> Node:
    """The tree of a tidy text. thousands: read 1,234 as one number (False: as a list)."""
    if not text or len(text) > MAX_CHARS:
        raise Unreadable("empty" if not text else "too long")
    if thousands:
        text = _THOUSANDS.sub(lambda m: m[1].replace(",", "") if _outside(text, m.start()) else m[1], text)
    parser = _Parser(_tokens(text))
    try:
        tree = parser.statement()
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if parser.peek() != END:
        raise Unreadable(f"left over: {parser.peek()[1]!r}")
    _check_depth(tree)
    return tree


def _check_depth(tree: Node) -> None:
    """Whoever walks the tree may recurse: refuse 1+1+... of more terms than the limit, and x!!!!..."""
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
