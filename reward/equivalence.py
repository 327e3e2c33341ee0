"""Whether an answer says the same as the gold answer.

In: gold and answer as text. Out: a truth value. `quick` decides equal strings and plain numbers without importing
anything (None: not that simple); `equivalent` decides all. It is bounded everywhere it can be, but a check must still
run in a process that may be killed (`reward.judge`): the last resort, sympy, can hang in C. Must not know: modes,
outcomes, rewards.

What does what: own grammar and evaluation (`reward.grammar`, `reward.value`; over 95 % of real answers), comparing
exact fractions, 60-digit values, and formulas at several points; `latex2sympy2_extended` and sympy only for set
algebra, sums, integrals and limits, on short text.

Rules, where peers disagree:
- Equal values are equal in any form: 22/1700 = 11/850, 10^4 = 10000. When one side is written as a decimal, relative
  tolerance 1e-6, never absolute (1.4142135623730951 = sqrt 2; 2.23 is not 2.232; 3.14 is not pi). Else exactly.
- x% equals x/100 and x. Units, money signs and "degrees" behind a number do not count; 5 million is not 5.
- Comma lists and sets are unordered; tuples, ratios and interval brackets are ordered; a set is not a tuple. A list, as
  "1 or 2" is, never equals a single gold.
- x = 5 equals 5; a chain of equal values equals its last; an approximation (A ~ 3.01) stands for A.
- 1,234 is a number, or a pair when the gold is one; 1,22 may be 1.22; 4 2 is neither.
- Text compares without case, spaces and punctuation. An empty gold matches nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from reward.grammar import MAX_CHARS, Node, Unreadable, parse, tidy

Gold = str | tuple[str, ...]

# ------------------------------------------------------------------ fast path

_PLAIN = re.compile(r"([+-]?)(?:\\?\$)?(?:(\d{1,3}(?:,\d{3})+|\d+)(\.\d*)?|(\.\d+))(?:/(\d+))?")
_FRAC = re.compile(r"([+-]?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_MAX_PLAIN = 400  # characters
TOLERANCE = Fraction(1, 10**6)


def plain_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, written as a decimal) of an integer, decimal or fraction; None when it is anything else.

    Example: "-1,234.50" is (Fraction(-2469, 2), True); "3/4" is (Fraction(3, 4), False).
    """
    if len(text) > _MAX_PLAIN:
        return None
    match = _PLAIN.fullmatch(text)
    if match is not None and text.isascii():
        sign, whole, part, bare, below = match.groups()
        if whole and whole.startswith("0") and "," in whole:
            return None
        decimal = bool((part and part != ".") or bare)
        if below is not None and (decimal or int(below) == 0):
            return None
        value = Fraction((whole or "").replace(",", "") + (part if part and part != "." else "") + (bare or ""))
        value = value / int(below) if below is not None else value
        return (-value if sign == "-" else value), decimal
    match = _FRAC.fullmatch(text)
    if match is not None and text.isascii() and int(match[3]):
        value = Fraction(int(match[2]), int(match[3]))
        return (-value if match[1] == "-" else value), False
    return None


def quick(gold: str, answer: str) -> bool | None:
    """The verdict where plain numbers or equal strings decide it; None where more is needed."""
    gold, answer = gold.strip(), answer.strip()
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    a = plain_number(gold)
    b = plain_number(answer) if a is not None else None
    if a is None or b is None:
        return None
    if a[1] or b[1]:
        return abs(a[0] - b[0]) <= TOLERANCE * min(abs(a[0]), abs(b[0]))
    return a[0] == b[0]


# ------------------------------------------------------------------ all answers


def matches(gold: Gold, answer: str, all_answers: bool = False) -> bool:
    """Several golds: any may match, or (all_answers) the answer must be the list of them all."""
    return _over(gold, answer, all_answers, equivalent) is True


def quick_matches(gold: Gold, answer: str, all_answers: bool = False) -> bool | None:
    return _over(gold, answer, all_answers, quick)


def _over(gold: Gold, answer: str, all_answers: bool, compare: Callable[[str, str], bool | None]) -> bool | None:
    if isinstance(gold, str):
        return compare(gold, answer)
    if all_answers and len(gold) > 1:
        if not all(one.strip() for one in gold):
            return False
        return compare(r" \text{ and } ".join(gold), answer)
    found = [compare(one, answer) for one in gold]
    return True if True in found else None if None in found else False


def equivalent(gold: str, answer: str) -> bool:
    decided = quick(gold, answer)
    if decided is not None:
        return decided
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        return _squash(gold) == _squash(answer)
    if _same_text(gold, answer):
        return True
    golds, answers = _readings(gold), _readings(answer)
    if golds and answers:
        from mpmath import mp

        from reward.value import DIGITS

        with mp.workdps(DIGITS):
            if any(_equal(a, b) for a in golds for b in answers):
                return True
        if not _unevaluated(golds, answers):
            return False
    return _by_sympy(gold, answer)


def _unevaluated(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    """Whether set algebra or matrix arithmetic, which is not ours, might still make them equal."""
    sets = {"setop", "seq", "set", "list", "rel"}
    if any(_some(tree, "setop") for tree in (*golds, *answers)):
        return any(g[0] in sets and a[0] in sets for g in golds for a in answers)
    sums = any(tree[0] != "matrix" and _some(tree, "matrix") for tree in (*golds, *answers))
    return sums and any(_some(g, "matrix") and _some(a, "matrix") for g in golds for a in answers)


def warm() -> None:
    """Import what a check may need, so that no check's time limit pays for it."""
    import latex2sympy2_extended  # noqa: F401

    equivalent("\\sqrt{2}", "2^{1/2}")


# ------------------------------------------------------------------ text


_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|mathrm|mathbf|mathit|boxed)\s*\{([^{}]*)\}")


def _squash(text: str) -> str:
    """Without typography. Braces stay where they may carry meaning."""
    text = re.sub(
        r"\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|\\[()\[\]](?!\w)|[$~]",
        "",
        _WRAPPED.sub(r"\1", _WRAPPED.sub(r"\1", text)),
    )
    text = re.sub(r"\s+", "", re.sub(r"(?<=\d)\s+(?=\d)", "_", text))
    if not re.search(r"[\\^_]", text) and text.count("{") == text.count("}"):
        text = re.sub(r"[{}]", "", text)
    return text.rstrip(".,;:")


def _same_text(gold: str, answer: str) -> bool:
    a, b = _squash(gold), _squash(answer)
    if not a:
        return False
    if a == b:
        return True
    wordy = re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", a) or re.fullmatch(r"\(?[a-zA-Z]\)?", a)
    if not wordy or "\\" in a or "\\" in b:
        return False
    a, b = (re.sub(r"[().,'\"\-–]", "", one).casefold() for one in (a, b))
    return bool(a) and a == b


# ------------------------------------------------------------------ trees


@lru_cache(maxsize=256)
def _readings(text: str) -> tuple[Node, ...]:
    """The trees that a text may stand for: 1,234 is a number or a pair, 1,22 a pair or 1.22."""
    short = tidy(text)
    if re.fullmatch(r"-?(?:0,\d+|\d+,\d{2}|\d+,\d{4,})", short):
        return tuple(
            _try(short.replace(",", ".")) + ([] if re.search(r",0\d", short) else _try(short, thousands=False))
        )
    trees = _try(short)
    if re.search(r"\d,[1-9]\d\d", short) and not re.search(r"\d,0\d", short):
        trees += [tree for tree in _try(short, thousands=False) if tree not in trees]
    return tuple(trees)


def _try(text: str, thousands: bool = True) -> list[Node]:
    try:
        return [_meant(parse(text, thousands))]
    except Unreadable:
        side = re.sub(r".*(?<![<>!\\])=", "", text)  # \lim ... = 1: the last side may be readable
        if side != text and re.match(r"\\(?:lim|sum|int|prod)(?![a-z])", text):
            return _try(side)
        return []


def _children(node: Any) -> Iterator[Node]:
    for child in node[1:]:
        if isinstance(child, tuple):
            if child and isinstance(child[0], str):
                yield child
            else:
                yield from (grand for grand in child if isinstance(grand, tuple))


def _some(node: Node, *kinds: str) -> bool:
    """Whether a node of these kinds is in the tree."""
    return node[0] in kinds or any(_some(child, *kinds) for child in _flatten(node))


def _flatten(node: Node) -> Iterator[Node]:
    for child in _children(node):
        if child and isinstance(child[0], tuple):  # a matrix' row
            yield from child
        else:
            yield child


def _symbols(node: Node) -> set[str]:
    if node[0] == "sym":
        return {node[1]}
    return set().union(*(_symbols(child) for child in _flatten(node))) if node else set()


def _is_name(node: Node) -> bool:
    """x, f(x), y_1, |AB|, AB, (p, q): what an answer may be called, on the left of an equals sign."""
    kind = node[0]
    if kind == "sym":
        return True
    if kind == "seq":
        return all(_is_name(item) for item in node[3]) and len(node[3]) > 0
    if kind == "fn" and node[1] == "abs":
        return _is_name(node[2])
    if kind == "mul":
        a, b = node[1], node[2]
        if a[0] == "sym" and len(a[1]) == 1 and a[1] in "fghFGHPp":
            return not _some(b, "rel", "list")
        return _is_name(a) and _is_name(b) and all(len(s) == 1 and s.isupper() for s in _symbols(node))
    return False


def _meant(node: Node) -> Node:
    """x = 5 means 5; 2/4 = 1/2 means its last side; sides of a list likewise; a < x < b, x > a and x in S mean sets."""
    kind = node[0]
    if kind in ("list", "set"):
        return (kind, _expanded(node[1]))
    if kind == "seq":
        if len(node[3]) == 1 and node[3][0][0] == "matrix":
            return tuple(node[3][0])  # \\left[\\begin{matrix}...
        return (*node[:3], tuple(_meant(item) for item in node[3]))
    if kind == "pm" or (kind in ("add", "mul", "div", "neg") and _some(node, "pm")):
        return ("set", _expanded((node,)))
    if kind == "deg":
        return node
    if kind != "rel":
        return node
    parts = list(node[1])
    while "≈" in parts and len(parts) > 1:
        at = parts.index("≈")
        parts = parts[at + 1 :] if _is_name(parts[at - 1]) and at == 1 else parts[:at]
    if len(parts) == 1:
        return _meant(parts[0])
    ops = set(parts[1::2])
    if ops == {"∈"} and len(parts) == 3 and _is_name(parts[0]):
        inner = _meant(parts[2])
        return ("set", inner[1]) if inner[0] == "list" else inner
    if ops == {"="}:
        if _is_name(parts[-1]) and not _is_name(parts[0]) and not _symbols(parts[0]):
            parts.reverse()
        if _is_name(parts[0]) and len(parts) == 3 and not _is_equation(parts):
            return _meant(parts[2])
        if len(parts) > 3 and _is_name(parts[0]):
            return _meant(parts[-1])
        if not any(_symbols(side) for side in parts[::2]):
            return _meant(parts[-1])
        return ("rel", tuple(parts))
    return _interval(parts) or ("rel", tuple(parts))


def _is_equation(parts: list[Any]) -> bool:
    """y = 2x + 1 stays an equation (of a line, perhaps) when both sides have symbols; compared either way."""
    return bool(_symbols(parts[2])) and parts[0][0] == "sym"


def _expanded(items: Sequence[Node]) -> tuple[Node, ...]:
    """Each item's meaning, with +- written out as two items, and k = 1, 2, 3 as a list of three."""
    out: list[Node] = []
    for item in items:
        for one in _both_signs(item) if _some(item, "pm") else [item]:
            out.append(_meant(one))
    return tuple(out)


def _both_signs(node: Node, limit: int = 1) -> list[Node]:
    def pick(tree: Any, op: str) -> Any:
        if isinstance(tree, tuple):
            if tree and tree[0] == "pm":
                right = pick(tree[2], op)
                return ("add", pick(tree[1], op), right if op == "+" else ("neg", right))
            return tuple(pick(child, op) for child in tree)
        return tree

    return [pick(node, "+"), pick(node, "-")]


_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_INFINITY: Node = ("const", "oo")


def _interval(parts: list[Any]) -> Node | None:
    """a <= x < b as [a, b); x > a as (a, oo), when x is a name and the bounds have no symbols."""
    if len(parts) == 5 and parts[1] in (">", ">=") and parts[3] in (">", ">="):
        parts = [parts[4], _FLIP[parts[3]], parts[2], _FLIP[parts[1]], parts[0]]
    if len(parts) == 5 and parts[1] in ("<", "<=") and parts[3] in ("<", "<=") and _is_name(parts[2]):
        if _symbols(parts[0]) or _symbols(parts[4]):
            return None
        return ("seq", "[" if parts[1] == "<=" else "(", "]" if parts[3] == "<=" else ")", (parts[0], parts[4]))
    if len(parts) != 3 or parts[1] not in ("<", ">", "<=", ">="):
        return None
    left, op, right = parts
    if _is_name(right) and not _symbols(left):
        left, op, right = right, _FLIP[op], left
    while left[0] == "neg":
        left, op, right = left[1], _FLIP[op], ("neg", right)
    if not _is_name(left) or _symbols(right):
        return None
    if op in ("<", "<="):
        return ("seq", "(", "]" if op == "<=" else ")", (("neg", _INFINITY), right))
    return ("seq", "[" if op == ">=" else "(", ")", (right, _INFINITY))


# ------------------------------------------------------------------ equality of trees

_MAX_ITEMS = 100


def _equal(a: Node, b: Node) -> bool:
    if a == b:
        return True
    kinds = {a[0], b[0]}
    for one, other in ((a, b), (b, a)):  # {5} and 5; (5) and 5
        if one[0] in ("set", "list") and len(one[1]) == 1 and other[0] not in ("set", "list"):
            return _equal(one[1][0], other)
        if one[0] == "matrix" and other[0] == "seq" and other[1:3] == ("(", ")"):
            flat = tuple(entry for row in one[1] for entry in row)
            return (len(one[1]) == 1 or len(one[1][0]) == 1) and _in_order(flat, other[3])
    if kinds <= {"set", "list"}:
        return _any_order(a[1], b[1])
    if kinds == {"seq"}:
        return a[1:3] == b[1:3] and _in_order(a[3], b[3])
    if kinds == {"ratio"}:
        return _in_order(a[1], b[1])
    if kinds == {"matrix"}:
        return len(a[1]) == len(b[1]) and all(_in_order(x, y) for x, y in zip(a[1], b[1], strict=True))
    if kinds == {"setop"}:
        if a[1] != b[1]:
            return False
        if a[1] == "∖":
            return _equal(a[2], b[2]) and _equal(a[3], b[3])
        return _any_order(_operands(a, a[1]), _operands(b, a[1]))
    if kinds & {"set", "list", "seq", "ratio", "matrix", "setop"}:
        return False
    if "rel" in kinds:
        return _same_relation(a, b)
    return _same_value(a, b)


def _operands(node: Node, op: str) -> tuple[Node, ...]:
    if node[0] == "setop" and node[1] == op:
        return _operands(node[2], op) + _operands(node[3], op)
    return (_meant(node),)


def _in_order(a: Sequence[Node], b: Sequence[Node]) -> bool:
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))


def _any_order(a: Sequence[Node], b: Sequence[Node]) -> bool:
    if max(len(a), len(b)) > _MAX_ITEMS:
        return False
    left = list(b)
    for x in a:
        found = next((at for at, y in enumerate(left) if _equal(x, y)), None)
        if found is None:
            # a repeated member adds nothing
            if any(_equal(x, y) for y in b):
                continue
            return False
        del left[found]
    return all(any(_equal(x, y) for x in a) for y in left)


def _same_relation(a: Node, b: Node) -> bool:
    if a[0] != "rel" or b[0] != "rel":
        # y = f(x) against f(x)
        relation, other = (a, b) if a[0] == "rel" else (b, a)
        parts = relation[1]
        return len(parts) == 3 and parts[1] == "=" and _is_name(parts[0]) and _equal(_meant(parts[2]), other)
    pa, pb = a[1], b[1]
    if len(pa) == len(pb) and pa[1::2] == pb[1::2] and all(map(_equal, map(_meant, pa[::2]), map(_meant, pb[::2]))):
        return True
    if len(pa) != 3 or len(pb) != 3 or "∈" in (pa[1], pb[1]):
        return False
    difference = [("add", p[0], ("neg", p[2])) for p in (pa, pb)]
    ratio = _constant_ratio(*difference)
    if ratio is None:
        return False
    op = pa[1] if ratio > 0 else _FLIP.get(pa[1])
    return bool(op == pb[1])


def _points(names: Sequence[str]) -> Iterator[dict[str, Fraction]]:
    """Six points, three of them positive, one negative; the same for the same names, in any formula."""
    for trial in range(6):
        point = {}
        for name in names:
            rng = random.Random(f"{name}/{trial}")
            value = Fraction(rng.randrange(301, 2999), 997)
            point[name] = -value if trial == 3 or (trial > 3 and rng.random() < 0.5) else value
        yield point


def _decimal(*nodes: Node) -> bool:
    return any(_some(node, "dec") for node in nodes)


def _constant_ratio(a: Node, b: Node) -> Any:
    """a / b where it is the same at every point, else None."""
    from reward.value import Undefined, evaluate, ratio, real, same

    first = None
    for point in _points(sorted(_symbols(a) | _symbols(b))):
        try:
            x, y = evaluate(a, point), evaluate(b, point)
        except Undefined:
            continue
        if x == 0 or y == 0 or not (real(x) and real(y)):
            return None
        now = ratio(x, y)
        if first is not None and not same(first, now, _decimal(a, b)):
            return None
        first = now
    return first


def _same_value(a: Node, b: Node) -> bool:
    percent = [node[0] == "pct" for node in (a, b)]
    if any(percent) and not all(percent):
        whole, other = (a[1], b) if percent[0] else (b[1], a)
        return _at_points(whole, other) or _at_points(("div", whole, ("num", Fraction(100))), other)
    if (a[0] == "deg") != (b[0] == "deg"):
        angle, other = (a, b) if a[0] == "deg" else (b, a)
        return _at_points(angle[1], other) or _at_points(angle, other)
    return _at_points(a, b)


def _at_points(a: Node, b: Node) -> bool:
    from reward.value import Undefined, evaluate, real, same

    names = sorted(_symbols(a) | _symbols(b))
    decimal = _decimal(a, b)
    imaginary = any(_some(node, "const") and "i" in _constants(node) for node in (a, b))
    compared = 0
    for point in _points(names):
        values = []
        for node in (a, b):
            try:
                values.append(evaluate(node, point))
            except Undefined:
                values.append(None)
        x, y = values
        if x is None and y is None:
            continue
        if x is None or y is None:
            return False
        if names and not imaginary and not real(x) and not real(y):
            continue  # outside the reals
        if not same(x, y, decimal):
            return False
        if not names:
            return True
        compared += 1
    return compared > 0


def _constants(node: Node) -> set[str]:
    if node[0] == "const":
        return {node[1]}
    return set().union(*(_constants(child) for child in _flatten(node)))


# ------------------------------------------------------------------ last resort

_SYMPY = re.compile(r"\\(?:int|sum|prod|lim|cap|cup|setminus|begin)(?![a-zA-Z])|[∪∩]")
_MAX_SYMPY_CHARS = 200
_MAX_SYMPY_DIGITS = 6  # of any number: no tower or factorial of a large one is ever built


def _by_sympy(gold: str, answer: str) -> bool:
    """Set algebra, sums, integrals, limits. Guarded text only; may still be slow: run it where it can be killed."""
    both = gold + " " + answer
    if not _SYMPY.search(both) or max(len(gold), len(answer)) > _MAX_SYMPY_CHARS:
        return False
    if both.count("^") > 8 or "!" in both or re.search(rf"\d{{{_MAX_SYMPY_DIGITS + 1}}}|\^[^+\-*/=]*\^", both):
        return False
    from latex2sympy2_extended import latex2sympy
    from sympy import Basic, simplify

    try:
        a, b = latex2sympy(gold.strip("$ ")), latex2sympy(answer.strip("$ "))
    except RecursionError:
        return False
    except Exception:  # the parser raises whatever its generated code hits: unreadable, so not equal
        return False
    if not isinstance(a, Basic) or not isinstance(b, Basic):
        return False
    if a == b:
        return True
    try:
        return bool(simplify(a.doit() - b.doit()) == 0)
    except (TypeError, AttributeError, ValueError, NotImplementedError):
        return False
