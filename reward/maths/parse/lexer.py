"""Tidy text -> tokens.

In: the text that `spelling` returns. Out: (kind, value) pairs, or `Unreadable`. Kinds: num, sym (a variable),
cmd (a named function, constant or command), op, begin and end (of an environment). Must not know: grammar, meaning.
"""

from __future__ import annotations

import re

Token = tuple[str, str]

MAX_DIGITS = 1000
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "sinh",
    "cosh", "tanh", "coth", "sech", "csch", "arsinh", "arcosh", "artanh", "log", "ln", "lg", "exp", "abs", "max",
    "min", "gcd", "lcm", "floor", "ceil", "det", "cis", "Re", "Im", "arg",
}  # fmt: skip
_ALIASES = {
    "arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "ctg": "cot", "tg": "tan", "cosec": "csc", "asinh": "arsinh", "acosh": "arcosh",
    "atanh": "artanh", "inf": "infty", "infinity": "infty", "oo": "infty", "Infinity": "infty",
    "varnothing": "emptyset", "empty": "emptyset", "varphi": "phi", "varepsilon": "epsilon", "R": "mathbb_R",
    "reals": "mathbb_R", "Reals": "mathbb_R", "dfrac": "frac", "imath": "i", "jmath": "j", "to": "rightarrow",
    "lnot": "neg", "ne": "neq", "le": "leq", "ge": "geq",
}  # fmt: skip
_COMMANDS = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "over": "over", "leq": "<=", "leqslant": "<=", "geq": ">=",
    "geqslant": ">=", "lt": "<", "gt": ">", "neq": "!=", "approx": "≈", "simeq": "≈", "sim": "≈", "equiv": "≡",
    "in": "∈", "{": "\\{", "}": "\\}", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|(", "rvert": ")|", "vert": "|",
    "mid": "|", "cup": "∪", "cap": "∩", "bigcup": "∪", "setminus": "∖", "backslash": "∖", "pm": "±", "mp": "∓",
    "bmod": "mod", "mod": "mod", "pmod": "pmod", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉",
    "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "cr": "\\\\", "colon": ":", "land": "and",
    "wedge": "and", "lor": "or", "vee": "or", "lVert": "|(", "rVert": ")|", "|": "|", "rightarrow": "→",
}  # fmt: skip
_OPS = {"**": "^", "==": "="}
_UNSUPPORTED = {
    "oint", "partial", "nabla", "ldots", "dots", "cdots", "forall", "implies", "exists", "subset", "subseteq",
    "subsetneq", "supset", "supseteq", "supsetneq", "notin", "prec", "succ", "mapsto", "iff",
    "not", "nexists", "ncong", "nless", "ngtr", "neg",
}  # fmt: skip
_WORDS = {"pi", "theta", "infty", "alpha", "beta", "gamma", "sqrt", "cbrt", "binom", "lambda"}
_WHOLE = {"and": "op", "or": "op", "mod": "op", "Re": "cmd", "Im": "cmd"}  # not inside "for"
_NO_WORDS = {
    "no", "yes", "on", "not", "all", "odd", "even", "none", "a", "iv", "vi", "ii", "iii", "ix", "xi", "xv", "xx",
}  # fmt: skip
_PRODUCTS = 3  # longer runs of letters are words
_ROMAN = re.compile("[IVX]{2,}|[IVXLCDM]{3,}")
_NAMES = {name: name for name in FUNCTIONS | _WORDS} | {"sqrt": "root"}
_NAMES |= {name: meant for name, meant in _ALIASES.items() if meant in _NAMES and name != "oo"}
_NAME = re.compile("|".join(sorted(_NAMES.keys() - _WHOLE, key=len, reverse=True)) + "|.")
_TOKEN = re.compile(
    r"\\(?P<env>begin|end)\s*\{\s*(?P<name>[a-z]+)\*?\s*\}|(?P<dot>(?<=[\d.])\\dot\s*\{?\s*\d\s*\}?|(?<=\d\.)\(\d+\))"
    r"|(?P<based>(?=\d{0,40}[A-Fa-f])(?:\d[0-9A-Fa-f]{0,40}+|[A-F][0-9A-F]{1,40}+)(?=\s*_\s*\{?\s*1[1-6]\s*\}?(?!\d)))"
    r"|(?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\d.]))?)|(?P<cmd>\\(?:[a-zA-Z]+|[{}|\\]))|(?P<word>[a-zA-Z]+)"
    r"|(?P<op><=|>=|!=|==|\*\*|[-+*/^_(){}\[\]|,;:=<>!%°&'])|(?P<space>\s+)"
)


class Unreadable(ValueError):
    """The text is not mathematics that this grammar knows (perhaps words), or exceeds its bounds."""


def tokens(text: str) -> list[Token]:
    out: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(f"unknown character {text[at]!r}")
        at = match.end()
        kind, value = str(match.lastgroup), match[0]
        if match["env"]:
            out.append((match["env"], match["name"]))
        elif kind in ("num", "based"):
            if len(value) > MAX_DIGITS:
                raise Unreadable("too many digits")
            out.append((kind, value))
        elif kind == "dot":  # 0.1\dot{6}, 0.(6)
            out += [("cmd", "overline"), ("op", "{"), ("num", re.sub(r"\D", "", value)), ("op", "}")]
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
    return out


def _words(run: str) -> list[Token]:
    """A run of letters: known function names and and/or, otherwise single variables; a long word is not mathematics."""
    if len(run) > 1 and run.lower() in _NO_WORDS:
        raise Unreadable(f"a word: {run}")
    if _ALIASES.get(run) == "infty":
        return [("cmd", "infty")]
    if run in _WHOLE:
        return [(_WHOLE[run], run)]
    if len(run) > 1 and (_ROMAN.fullmatch(run) or (len(run) > 2 and run.isupper())):
        raise Unreadable(f"a word: {run[:40]}")  # letters whose order counts
    parts = _NAME.findall(run)
    if sum(len(part) == 1 for part in parts) > _PRODUCTS:
        raise Unreadable(f"a word: {run[:40]}")
    return [("sym", part) if len(part) == 1 else ("cmd", _NAMES[part]) for part in parts]
