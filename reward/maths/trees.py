"""Queries on trees: their parts, their free symbols, and whether they can be an answer's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reward.maths.parse.grammar import Node

_FUNCTIONS = set("fghpqFGHPQTSVuvyE")


def children(node: Node) -> Iterator[Node]:
    """The direct parts of a node that are nodes, also inside tuples (items, rows)."""
    for child in node[1:]:
        if isinstance(child, tuple) and child:
            if isinstance(child[0], str) and not (
                len(child) == 2 and isinstance(child[1], tuple) and node[0] == "named"
            ):
                yield child
            else:
                yield from _deep(child)


def _deep(items: tuple[Any, ...]) -> Iterator[Node]:
    for item in items:
        if isinstance(item, tuple) and item:
            if isinstance(item[0], str):
                yield item
            else:
                yield from _deep(item)


def some(node: Node, *kinds: str) -> bool:
    """Whether the tree contains a node of these kinds."""
    return node[0] in kinds or any(some(child, *kinds) for child in children(node))


def names(node: Node) -> set[str]:
    """The free symbols of a tree."""
    if node[0] == "sym":
        return {node[1]}
    found = set().union(*(names(child) for child in children(node)))
    return found - {node[1]} if node[0] in ("sum", "prod", "int", "lim") else found


def is_name(node: Node) -> bool:
    """x, f(x), y_1, f^{-1}(x), |AB|, AB, (p, q), sin x, P(A): possible names of an answer, left of an equals sign."""
    kind = node[0]
    if kind == "sym":
        return not node[1].startswith("mathbb")
    if kind == "seq":
        return len(node[3]) > 0 and all(is_name(item) for item in node[3])
    if kind == "fn" and node[1] in ("max", "min", "gcd", "lcm", "det", "arg"):
        return all(bool(names(arg)) for arg in node[2:])
    if kind == "fn":
        return len(node) == 3 and is_name(node[2])
    if kind == "mul":
        a, b = node[1], node[2]
        if is_function(a):
            return not some(b, "rel", "list")
        return is_name(a) and is_name(b) and all(len(s) == 1 and s.isupper() for s in names(node))
    return is_function(node)


def is_function(node: Node) -> bool:
    """f, f', f^{-1}, f_n: names of functions."""
    if node[0] == "pow":
        return node[2] == ("neg", ("num", 1)) and is_function(node[1])
    return node[0] == "sym" and node[1][:1] in _FUNCTIONS and len(node[1].partition("_")[0].rstrip("'")) == 1
