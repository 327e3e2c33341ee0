"""What a tree means as an answer: leading names, chains of equal values, signs, assignments.

In: trees of `grammar`. Out: trees that can be compared, with one more node: ("named", ((name, value), ...)) for
assignments. x = 5 means 5; x = 2/4 = 1/2 means 2/4 = 1/2; A ~ 3.01 means A; 1 +- 2 means two values; "x = 1, y = 2"
means named values; 2x = 5 stays an equation (perhaps that of the question). Must not know: text, how values compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from reward.maths.parse.grammar import Node
from reward.maths.trees import is_function, is_name, names, replaced, some

STRUCTURES = {"set", "list", "or", "seq", "ratio", "setop", "builder", "named", "residue"}
NO_NUMBERS = STRUCTURES | {"rel", "matrix"}
_WHOLE = (("sym", "mathbb_Z"), ("sym", "mathbb_N"))


def is_quantity(node: Node) -> bool:
    """a + b, mn, AB/CD: a quantity to find; with numbers or powers in it, it would be an equation or a curve."""
    kind = node[0]
    if kind == "sym":
        return True
    if kind in ("add", "mul", "div"):
        return is_quantity(node[1]) and is_quantity(node[2])
    if kind == "neg":
        return is_quantity(node[1])
    return kind == "fn" and node[1] == "abs" and is_quantity(node[2])


# ------------------------------------------------------------------ meaning


def meant(node: Node) -> Node:
    kind = node[0]
    if kind in ("list", "or"):
        return _list(node)
    if kind == "set":
        return ("set", _expanded(node[1]))
    if kind == "seq" and any(some(item, "pm") and item[0] != "list" for item in node[3]):
        return ("set", tuple(meant(one) for one in both_signs(node)))
    if kind == "builder":
        return _whole_numbers(node) or node
    if kind == "seq":
        if len(node[3]) == 1 and node[3][0][0] == "matrix":
            return tuple(node[3][0])  # \left[\begin{matrix}...
        inner = _list(("list", node[3]))
        return inner if inner[0] == "named" else (*node[:3], tuple(meant(item) for item in node[3]))
    if kind == "pm" or (kind in ("add", "mul", "div", "neg", "fn", "pow") and some(node, "pm")):
        return ("set", _expanded((node,)))
    if kind == "setop":
        return (kind, node[1], meant(node[2]), meant(node[3]))
    if kind == "rel":
        return _relation(list(node[1]))
    return node


def _relation(parts: list[Any]) -> Node:
    while "≈" in parts and len(parts) > 1:
        at = parts.index("≈")
        if not _roughly(parts[at - 1], parts[at + 1]):
            return ("rel", tuple(parts))
        parts = parts[at + 1 :] if is_name(parts[at - 1]) and at == 1 else parts[:at]
    if len(parts) == 1:
        return meant(parts[0])
    ops = set(parts[1::2])
    if ops == {"∈"} and len(parts) == 3 and is_name(parts[0]):
        inner = meant(parts[2])
        if inner[0] == "sym" or (parts[0][0] == "sym" and _of_reals(inner)):
            return ("rel", (*parts[:2], inner))  # the variable counts: t >= 2 is not x >= 2
        return ("set", inner[1]) if inner[0] in ("list", "or") else inner
    if ops == {"≡"} and len(parts) == 3 and is_name(parts[0]):
        right = parts[2]
        return ("residue", *right[2:]) if right[:2] == ("fn", "mod") else meant(right)
    if ops != {"="}:
        if any(some(side, "pm") for side in parts[::2]):
            return ("list", tuple(meant(one) for one in both_signs(("rel", tuple(parts)))), "and")
        return ("rel", tuple(parts))
    if len(parts) == 3 and (pairs := _pairs(parts[0], parts[2])):
        return ("named", pairs)
    if len(parts) == 3 and (ratio := _named_ratio(parts[0], parts[2])):
        return ratio
    if is_name(parts[-1]) and not is_name(parts[0]) and not names(parts[0]):
        parts.reverse()
    while len(parts) > 3 and is_name(parts[0]):
        parts = parts[2:]
    if len(parts) == 3 and is_name(parts[0]) and not _is_equation(parts):
        return meant(parts[2])
    return ("rel", tuple(parts))


def _of_reals(node: Node) -> bool:
    """Whether a tree is an interval or a union of intervals."""
    from reward.maths.compare.reals import pieces  # needs mpmath, which `quick` does without

    return node[0] in ("seq", "setop") and pieces(node) is not None


def _is_equation(parts: list[Any]) -> bool:
    """y = 2x + 1 (perhaps a line) and tan x = 2x, with symbols on both sides, stay equations."""
    left = parts[0]
    return bool(names(parts[2])) and (left[0] in ("sym", "mul") or (left[0] == "fn" and left[1] != "abs"))


def _pairs(left: Node, right: Node) -> tuple[tuple[str, Node], ...] | None:
    """(x, y) = (1, 2) as named values."""
    if left[:3] != ("seq", "(", ")") or right[:3] != ("seq", "(", ")") or not len(left[3]) == len(right[3]) > 1:
        return None
    if any(item[0] != "sym" for item in left[3]) or len(set(left[3])) < len(left[3]):
        return None
    return tuple((name[1], meant(value)) for name, value in zip(left[3], right[3], strict=True))


def _roughly(exact: Node, rounded: Node) -> bool:
    """Whether A ~ B is plausible: for numbers, as in 70/9 ~ 7.78 and ~ 8; for names always."""
    from reward.maths.compare.value import Undefined, evaluate, real

    if names(exact) or names(rounded):
        return True
    try:
        a, b = evaluate(exact, {}), evaluate(rounded, {})
        if isinstance(a, list) or isinstance(b, list) or not (real(a) and real(b)):
            return True
        off = abs(float(a.real) - float(b.real))
        return off <= 0.01 * abs(float(a.real)) or (rounded[0] == "num" and off <= 0.5)
    except (Undefined, OverflowError):
        return True


def _named_ratio(left: Node, right: Node) -> Node | None:
    """a : b = 3 : 4 as a ratio with names."""
    if not left[0] == right[0] == "ratio" or len(left[1]) != len(right[1]) or not all(map(is_name, left[1])):
        return None
    return ("ratio", tuple(meant(item) for item in right[1]), tuple(map(str, left[1])))


def _list(node: Node) -> Node:
    """Named values if every item is an assignment to a different name, otherwise the items' meanings."""
    items = node[1]
    if not items:
        return node
    pairs = [pair for item in items if (pair := _assignment(item)) is not None]
    if len(dict(pairs)) == len(items) > 1:
        return ("named", tuple(pairs))
    if items[-1][0] == "residue":  # x = 1, 5 (mod 6)
        modulus = items[-1][2]
        bare = [item[1][2] if item[0] == "rel" and item[1][1:2] == ("≡",) else item for item in items[:-1]]
        return ("list", (*(("residue", item, modulus) for item in bare), items[-1]))
    return (node[0], _expanded(items), *node[2:])


def _assignment(item: Node) -> tuple[str, Node] | None:
    """x = 1 as ("x", 1)."""
    if item[0] != "rel" or len(item[1]) < 3 or set(item[1][1::2]) != {"="}:
        return None
    parts = item[1]
    call = parts[0][0] == "mul" and is_function(parts[0][1])  # f(x) = 2x
    if not is_name(parts[0]) or (names(parts[-1]) and not call) or some(item, "pm"):
        return None
    return parts[0][1] if parts[0][0] == "sym" else repr(parts[0]), meant(parts[-1])


def _whole_numbers(node: Node) -> Node | None:
    """{x in Z | 1 <= x <= 4} as a list of its members."""
    name = node[1]
    if name[0] != "rel" or len(name[1]) != 3 or name[1][1] != "∈" or name[1][2] not in _WHOLE:
        return None
    from reward.maths.compare.reals import whole_numbers

    found = whole_numbers(("builder", name[1][0], node[2]), 0 if name[1][2] != ("sym", "mathbb_Z") else None)
    return None if found is None else ("set", tuple(("num", Fraction(k)) for k in found))


def _expanded(items: Sequence[Node]) -> tuple[Node, ...]:
    """Each item's meaning, with +- expanded to two items, and k = 1, 2, 3 to a list of three."""
    return tuple(meant(one) for item in items for one in (both_signs(item) if some(item, "pm") else [item]))


def both_signs(node: Node) -> list[Node]:
    """The tree with all upper signs, and with all lower signs."""

    def with_sign(tree: Node, upper: bool) -> Any:
        def sum_of(part: Node) -> Node | None:
            if part[0] != "pm":
                return None
            left, right = with_sign(part[2], upper), with_sign(part[3], upper)
            return ("add", left, right if (part[1] == "±") is upper else ("neg", right))

        return replaced(tree, sum_of)

    return [with_sign(node, True), with_sign(node, False)]
