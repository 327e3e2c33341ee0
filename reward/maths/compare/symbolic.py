"""Integrals, limits, derivatives and infinite sums, evaluated by sympy.

In: trees of `grammar`, converted to sympy objects node by node: no text is ever given to a library's parser. Out:
trees without calculus, or None if sympy finds no closed form. Guarded against large numbers, but sympy may still be
slow: run it where it can be killed. Must not know: text, what is compared.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from reward.maths.parse.grammar import Node, parse
from reward.maths.parse.lexer import Unreadable
from reward.maths.parse.spelling import tidy
from reward.maths.trees import names, replaced, some, walk

CALCULUS = ("int", "lim", "diff", "sum", "prod")
_MAX_DIGITS = 6  # of any number, so that no tower or factorial of a large one is ever built
_MAX_NODES = 60


class _NoClosedForm(Exception):
    """sympy has no answer, or one that the grammar cannot express."""


def worked_out(tree: Node) -> Node | None:
    """The tree with all its calculus evaluated; None if any of it has no closed form."""
    try:
        done: Node = replaced(tree, lambda node: _closed_form(node) if node[0] in CALCULUS else None)
    except _NoClosedForm:
        return None
    return done


def _closed_form(tree: Node) -> Node:
    import sympy

    if not _small(tree) or (tree[0] in ("sum", "prod") and not names(tree) and tree[3] != ("const", "oo")):
        raise _NoClosedForm  # `value` handles finite sums of numbers, or they are too long
    try:
        done = _built(tree, sympy).doit()
        if done.has(sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product, sympy.Derivative, sympy.AccumBounds):
            raise _NoClosedForm
        return parse(tidy(str(sympy.latex(done, ln_notation=True))))
    except (Unreadable, NotImplementedError, ValueError, TypeError, AttributeError, ArithmeticError, KeyError):
        raise _NoClosedForm from None


def _small(tree: Node) -> bool:
    nodes = list(walk(tree))
    for node in nodes:
        if node[0] in ("num", "dec") and max(abs(node[1].numerator), node[1].denominator) >= 10**_MAX_DIGITS:
            return False
        if node[0] == "pow" and some(node[2], "pow"):
            return False  # no towers
        if node[:2] == ("fn", "factorial") and some(node[2], "pow", "mul", "fn"):
            return False  # nor factorials of factorials
    return len(nodes) <= _MAX_NODES


def _built(node: Node, sympy: Any) -> Any:
    """The sympy object of a tree; KeyError for unsupported nodes."""
    kind = node[0]
    if kind in ("num", "dec"):
        value: Fraction = node[1]
        return sympy.Rational(value.numerator, value.denominator)
    if kind == "sym":
        return sympy.Symbol(node[1])
    if kind == "const":
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}[node[1]]
    if kind == "fn":
        functions = {
            "factorial": sympy.factorial, "binom": sympy.binomial, "ln": sympy.log, "log": sympy.log, "exp": sympy.exp,
            "abs": sympy.Abs, "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
            "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh,
            "cosh": sympy.cosh, "tanh": sympy.tanh, "floor": sympy.floor, "ceil": sympy.ceiling,
        }  # fmt: skip
        return functions[node[1]](*(_built(arg, sympy) for arg in node[2:]))
    if kind in CALCULUS:
        return _operator(node, sympy)
    parts = [_built(part, sympy) for part in node[1:]]
    return {
        "add": lambda: parts[0] + parts[1],
        "mul": lambda: parts[0] * parts[1],
        "div": lambda: parts[0] / parts[1],
        "pow": lambda: parts[0] ** parts[1],
        "neg": lambda: -parts[0],
        "pct": lambda: parts[0] / 100,
        "deg": lambda: parts[0] * sympy.pi / 180,
    }[kind]()


def _operator(node: Node, sympy: Any) -> Any:
    kind, name = node[0], sympy.Symbol(node[1])
    body = _built(node[-1], sympy)
    if kind == "diff":
        return sympy.Derivative(body, name)
    if kind == "lim":
        return sympy.Limit(body, name, _built(node[2], sympy), node[3] or "+-")
    if kind == "int" and node[2] is None:
        return sympy.Integral(body, name)
    bounds = (name, _built(node[2], sympy), _built(node[3], sympy))
    return {"int": sympy.Integral, "sum": sympy.Sum, "prod": sympy.Product}[kind](body, bounds)
