"""Whether two trees mean the same.

In: trees of `meaning`. Out: a truth value. Numbers compare exactly, or with a relative tolerance of 1e-6 if one side is
written as a decimal. Must not know: text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from reward.maths.compare import reals
from reward.maths.compare.families import same_family
from reward.maths.compare.points import constant_ratio, decimal, same_value
from reward.maths.compare.value import Undefined, evaluate, ratio, real, same
from reward.maths.meaning import NO_NUMBERS, STRUCTURES, is_quantity, meant
from reward.maths.parse.grammar import Node
from reward.maths.trees import is_name, names, replaced, some

_MAX_ITEMS = 100


def equal(a: Node, b: Node) -> bool:
    if a == b:
        return True
    kinds = {a[0], b[0]}
    if (_is_set_of_reals(a) or _is_set_of_reals(b)) and (found := _as_reals(a, b)) is not None:
        return found
    if (found := same_family(a, b)) is not None:
        return found
    for one, other in ((a, b), (b, a)):
        if (found := _across_kinds(one, other)) is not None:
            return found
    if kinds <= {"set", "list", "or"}:
        return _any_order(a[1], b[1], repeats="set" not in kinds and not _solutions(a))
    if len(kinds) == 1 and a[0] in _SAME_KIND:
        return _SAME_KIND[a[0]](a, b)
    if kinds == {"matrix"} and len(a[1]) == len(b[1]) and all(map(_in_order, a[1], b[1])):
        return True
    if kinds & STRUCTURES:
        return False
    if "rel" in kinds:
        return _same_relation(a, b)
    return same_value(a, b)


# ------------------------------------------------------------------ structures


def _across_kinds(one: Node, other: Node) -> bool | None:
    """{5} and 5, a vector as a column or a tuple, named values, a ratio and its value; None: nothing of the kind."""
    if one[0] in ("set", "list") and len(one[1]) == 1 and other[0] not in ("set", "list", "or"):
        return equal(one[1][0], other)
    if one[0] == "matrix" and other[:3] == ("seq", "(", ")"):
        flat = tuple(entry for row in one[1] for entry in row)
        return (len(one[1]) == 1 or len(one[1][0]) == 1) and _in_order(flat, other[3])
    if one[0] == "matrix" and other[:3] == ("seq", "[", "]"):
        rows = [item[3] for item in other[3] if item[:3] == ("seq", "[", "]")]
        return len(rows) == len(other[3]) == len(one[1]) and all(map(_in_order, one[1], rows))
    if one[0] == "seq" and other[0] in ("add", "mul", "sym") and names(other) and names(other) <= set(_VECTORS):
        return one[1:3] == ("(", ")") and _same_vector(one[3], other)
    if one[0] == "named":
        return _same_named(one, other)
    if one[0] == "ratio" and other[0] not in NO_NUMBERS and len(one[1]) == 2:
        return equal(("div", *one[1]), other)
    return None


def _same_set_operation(a: Node, b: Node) -> bool:
    if a[1] != b[1]:
        return False
    if a[1] == "∖":
        return equal(a[2], b[2]) and equal(a[3], b[3])
    return _any_order(_operands(a, a[1]), _operands(b, a[1]), repeats=False)


_SAME_KIND: dict[str, Callable[[Node, Node], bool]] = {
    "seq": lambda a, b: a[1:3] == b[1:3] and _in_order(a[3], b[3]),
    "ratio": lambda a, b: _in_order(a[1], parts := _by_name(a, b)) or _same_ratio(a[1], parts),
    "residue": lambda a, b: equal(a[2], b[2]) and equal(("fn", "mod", *a[1:]), ("fn", "mod", *b[1:])),
    "setop": _same_set_operation,
    "builder": lambda a, b: equal(a[1], b[1]) and equal(meant(a[2]), meant(b[2])),
}


def _is_set_of_reals(node: Node) -> bool:
    """Whether a tree is a set of numbers by its content, not only by its form, as (1, 2) is."""
    return (
        node[0] in ("rel", "setop", "builder")
        or node == ("sym", "mathbb_R")
        or (node[0] in ("or", "list", "set") and any(item[0] == "rel" for item in node[1]))
    )


_VECTORS = ("vec_i", "vec_j", "vec_k")


def _same_vector(parts: Sequence[Node], node: Node) -> bool:
    """(3, 4) against 3 i + 4 j, with unit vectors."""
    if len(parts) not in (2, 3) or (len(parts) == 2 and "vec_k" in names(node)):
        return False
    one, nothing = ("num", Fraction(1)), ("num", Fraction(0))
    return all(
        equal(part, replaced(node, {("sym", name): one if name == _VECTORS[at] else nothing for name in _VECTORS}.get))
        for at, part in enumerate(parts)
    )


def _as_reals(a: Node, b: Node) -> bool | None:
    """Compared as sets of real numbers; None if either is not one. Two pairs stay pairs."""
    if a[0] == b[0] == "rel" and a[1][1::2] == b[1][1::2] == ("=",):
        return None
    if (one := _variable(a)) and (two := _variable(b)) and one != two:
        return False
    try:
        first = reals.pieces(a, solve=True)
        second = reals.pieces(b) if first is not None else None
        return None if first is None or second is None else reals.equal(first, second, decimal(a, b))
    except Undefined:
        return None


def _variable(node: Node) -> str | None:
    """The variable of inequalities, if there is just one: x in "x < 1 or x > 3" and in "|x| < 2"."""
    relations = [node] if node[0] == "rel" else node[1] if node[0] in ("or", "list", "set") else []
    found = set().union(*(names(one) for one in relations if one[0] == "rel")) - {"mathbb_R"}
    return found.pop() if len(found) == 1 else None


def _operands(node: Node, op: str) -> tuple[Node, ...]:
    if node[0] == "setop" and node[1] == op:
        return _operands(node[2], op) + _operands(node[3], op)
    return (meant(node),)


def _solutions(node: Node) -> bool:
    """Points and the like: a list of solutions, in which a repeated one adds nothing."""
    return any(item[0] in STRUCTURES for item in node[1])


def _in_order(a: Sequence[Node], b: Sequence[Node]) -> bool:
    return len(a) == len(b) and all(equal(meant(x), meant(y)) for x, y in zip(a, b, strict=True))


def _any_order(a: Sequence[Node], b: Sequence[Node], repeats: bool) -> bool:
    """repeats: whether the multiplicity of a member counts."""
    if max(len(a), len(b)) > _MAX_ITEMS or (repeats and len(a) != len(b)):
        return False
    left = list(b)
    for x in a:
        found = next((at for at, y in enumerate(left) if _same_member(x, y)), None)
        if found is not None:
            del left[found]
        elif repeats or not any(_same_member(x, y) for y in b):
            return False
    return all(any(_same_member(x, y) for x in a) for y in left)


def _same_member(x: Node, y: Node) -> bool:
    """Within a set {1} is not 1."""
    return (x[0] == "set") == (y[0] == "set") and equal(x, y)


def _same_ratio(a: Sequence[Node], b: Sequence[Node]) -> bool:
    """2:3 is 4:6; but 3:15 and 4:20 may be times of day."""
    if len(a) != len(b) or (len(a) == 2 and _time_of_day(a) and _time_of_day(b)):
        return False
    try:
        first, second = ([evaluate(part, {}) for part in parts] for parts in (a, b))
    except Undefined:
        return False
    if any(isinstance(x, list) or x == 0 for x in (*first, *second)):
        return False
    return all(same(ratio(x, first[0]), ratio(y, second[0]), False) for x, y in zip(first, second, strict=True))


def _by_name(a: Node, b: Node) -> tuple[Node, ...]:
    """The parts of b, in the order of a's names if both have the same names: b : a = 4 : 3 is a : b = 3 : 4."""
    parts: tuple[Node, ...] = b[1]
    if len(a) < 3 or len(b) < 3 or len(set(a[2])) < len(a[2]) or set(a[2]) != set(b[2]):
        return parts
    named = dict(zip(b[2], parts, strict=True))
    return tuple(named[name] for name in a[2])


def _time_of_day(parts: Sequence[Node]) -> bool:
    return all(part[0] == "num" for part in parts) and parts[0][1] <= 24 and 10 <= parts[1][1] < 60


def _same_named(a: Node, b: Node) -> bool:
    """x = 1, y = 2: by name; against a tuple in the order of the names; against a list (roots x_1, x_2) in any."""
    values = tuple(value for _, value in a[1])
    if b[0] == "named":
        one, two = dict(a[1]), dict(b[1])
        if set(one) == set(two):
            return all(equal(one[name], two[name]) for name in one)
        if _roots(a) or _roots(b):
            return _any_order(values, tuple(two.values()), repeats=True)
        return not set(one) & set(two) and _in_order(values, tuple(two.values()))
    if b[0] == "seq" and b[1:3] == ("(", ")"):
        ordered = tuple(value for _, value in sorted(a[1], key=lambda pair: str(pair[0])))
        return _in_order(values, b[3]) or _in_order(ordered, b[3])
    if b[0] == "list" and not _roots(a):
        return _in_order(values, b[1])
    return b[0] in ("list", "or", "set") and _any_order(values, b[1], repeats=b[0] == "list")


def _roots(node: Node) -> bool:
    """x_1 = 2, x_2 = 3: one unknown with several values."""
    stems = {name.partition("_")[0] for name, _ in node[1]}
    return len(stems) == 1 and not stems.pop().startswith("\\")


# ------------------------------------------------------------------ relations


def _same_relation(a: Node, b: Node) -> bool:
    for one, other in ((a, b), (b, a)):
        if one[0] == "rel" and set(one[1][1::2]) == {"="} and not any(names(side) for side in one[1][::2]):
            return _same_chain([meant(side) for side in one[1][::2]], other)
    if a[0] != "rel" or b[0] != "rel":
        # y = f(x) against f(x)
        relation, other = (a, b) if a[0] == "rel" else (b, a)
        parts = relation[1]
        if len(parts) != 3 or parts[1] != "=":
            return False
        asked = b[0] == "rel" and is_quantity(parts[0]) and len(names(parts[0])) > 1 and not names(parts[2])
        return (asked or is_name(parts[0])) and equal(meant(parts[2]), other)
    pa, pb = a[1], b[1]
    if len(pa) == len(pb) and pa[1::2] == pb[1::2] and all(map(equal, map(meant, pa[::2]), map(meant, pb[::2]))):
        return True
    if len(pa) > 3 or len(pb) > 3:
        flipped = tuple(reals.FLIP.get(part, part) if at % 2 else part for at, part in enumerate(reversed(pb)))
        return len(pa) == len(pb) and pa[1::2] == flipped[1::2] and _in_order(pa[::2], flipped[::2])
    if len(pa) != 3 or len(pb) != 3 or not {pa[1], pb[1]} <= set(reals.FLIP):
        return False
    calls = [part[0] for part in (pa, pb) if _is_call(part[0])]
    if pa[1] == pb[1] == "=" and calls:  # f(x) = 2x + 1 against g(x) = 2x + 1, and against y = 2x + 1
        named = is_name(pa[0]) and is_name(pb[0]) and (len(calls) == 1 or equal(calls[0][2], calls[1][2]))
        named = named and not any(part[0][0] == "sym" and "(" in part[0][1] for part in (pa, pb))  # f(3)
        return named and equal(meant(pa[2]), meant(pb[2]))
    try:
        factor = constant_ratio(*(("add", part[0], ("neg", part[2])) for part in (pa, pb)))
    except Undefined:
        return False
    if factor is None:
        return False
    return bool((pa[1] if factor > 0 else reals.FLIP[pa[1]]) == pb[1])


def _same_chain(sides: list[Node], other: Node) -> bool:
    """2/4 = 1/2, and 70/9 = 7.78: equal sides, or exact ones followed by a rounded one; 8 = 3 means nothing.

    If a limit or integral is stated to equal a value, the value counts.
    """
    sides = [side for side in sides if not some(side, "int", "lim", "diff", "sum", "prod")] or sides
    found = [equal(side, other) for side in sides]
    return any(found) and all(
        said or (side[0] == "dec" and _rounded(side, other)) for side, said in zip(sides, found, strict=True)
    )


def _rounded(side: Node, other: Node) -> bool:
    """Whether a decimal is within 0.5 % of a value."""
    try:
        exact = evaluate(other, {})
        return not isinstance(exact, list) and real(exact) and abs(float(side[1]) / float(exact.real) - 1) < 0.005
    except (Undefined, ArithmeticError, TypeError):
        return False


def _is_call(node: Node) -> bool:
    return node[0] == "mul" and is_name(node)
