"""Trees: visited, searched and rewritten; their free symbols; whether they can be an answer's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from reward.maths.parse.grammar import Node

_FUNCTIONS = set("fghpqFGHPQTSVuvyE")


def walk(tree: Node) -> Iterator[Node]:
    """The node and every node inside it, also in tuples of items and rows."""
    stack = [tree]
    while stack:
        part = stack.pop()
        if isinstance(part[0], str):
            yield part
        stack += [child for child in part if isinstance(child, tuple) and child]


def some(tree: Node, *kinds: str) -> bool:
    """Whether the tree contains a node of these kinds."""
    return any(node[0] in kinds for node in walk(tree))


def names(tree: Node) -> set[str]:
    """The free symbols of a tree."""
    if tree[0] == "sym":
        return {tree[1]}
    found = set().union(*(names(part) for part in tree if isinstance(part, tuple) and part))
    return found - {tree[1]} if tree[0] in ("sum", "prod", "int", "lim") else found


def replaced(tree: Any, new: Callable[[Node], Node | None]) -> Any:
    """The tree with `new(node)` in place of every node for which that is not None; its parts are not visited."""
    if not isinstance(tree, tuple):
        return tree
    if tree and isinstance(tree[0], str) and (other := new(tree)) is not None:
        return other
    return tuple(replaced(part, new) for part in tree)


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
