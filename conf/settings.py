"""Every setting as declared in `conf.schema`: key, type, default, range, meaning.

In: the dataclasses of `conf.schema` and their trailing comments. Out: one `Setting` per key. Must not know: Hydra,
what a setting does.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType, NoneType
from typing import Any, get_args, get_origin, get_type_hints

from conf import choices, schema
from conf.errors import BadConfig, brief
from conf.ranges import LINE, LONGEST_LIST, Range, Text

ABSENT = object()  # the value of a setting whose section is null


@dataclass(frozen=True)
class Setting:
    """One key of the configuration."""

    key: str  # e.g. "rollout.dynamic_sampling.rounds"
    kind: Any  # bool, int, float, str, an Enum, or object for any value; of a list, that of its items
    many: bool  # a list
    optional: bool  # null is allowed
    default: Any
    range: Range | None  # of a number, or of a list's numbers
    form: Text | None  # of a text, or of a list's texts
    meaning: str  # the schema's trailing comment; empty if the name says it

    @property
    def textual(self) -> bool:
        """Text, or a list of texts, which is taken literally on the command line."""
        return self.kind in (str, object)

    def of(self, conf: schema.Config) -> Any:
        """Its value in `conf`; ABSENT if its section is null."""
        value: Any = conf
        for name in self.key.split("."):
            if value is None:
                return ABSENT
            value = getattr(value, name)
        return value

    @property
    def valid(self) -> str:
        """The valid numbers or texts: "in [1, 65535] or null", "2 numbers in [0, 1)", "a line of ..."; empty for
        choices and booleans."""
        or_null = " or null" if self.optional else ""
        if self.form is not None:
            return (
                f"{'a list of texts, each ' if self.many else ''}{self.form.meaning}{',' if or_null else ''}{or_null}"
            )
        if self.range is None:
            return ""
        if not self.many:
            return f"in {self.range.text}{or_null}"
        several = "a list of" if self.range.count is None else self.range.count
        return f"{several} {'numbers' if self.kind is float else 'integers'} in {self.range.text}"

    def refuse_outside(self, value: Any, shown: str = "") -> None:
        """BadConfig if `value` is not in its range or of its form. shown: its name in the message, by default its
        key."""
        limits = self.range or self.form
        if limits is None or (value is None and self.optional):
            return
        name, items = shown or self.key, [value]
        if isinstance(value, Sequence) and not isinstance(value, str) and (self.many or self.kind is object):
            items = list(value)
            if len(items) > LONGEST_LIST:
                raise BadConfig(f"{name} must have at most {LONGEST_LIST} items, got {len(items)}")
        if self.form is not None and "" in items:
            raise BadConfig(f"{name} must not be empty{' (null: none)' if self.optional else ''}, got {value!r}")
        if not all(map(limits.holds, items)) or (self.range and self.range.count not in (None, len(items))):
            got = as_text(value) if self.form is None else repr(value)
            raise BadConfig(brief(f"{name} must be {self.valid}, got {got}"))


@dataclass(frozen=True)
class Section:
    """A dataclass of the schema, whose settings share the prefix `key`."""

    key: str  # "" for the settings outside any section
    optional: bool  # it may be null, which has no settings
    kind: str  # the dataclass's name
    meaning: str  # first paragraph of its docstring
    settings: tuple[Setting, ...]


@functools.cache
def sections() -> tuple[Section, ...]:
    """All sections in the schema's order, nested ones after their parents."""
    found: list[Section] = []

    def walk(kind: Any, prefix: str, optional: bool = False) -> None:
        place, own, inner = len(found), [], []
        hints, blank = get_type_hints(kind), kind()
        for item in fields(kind):
            key = f"{prefix}.{item.name}" if prefix else item.name
            plain, null = _without_none(hints[item.name])
            if is_dataclass(plain):
                inner.append((plain, key, null))
                continue
            many = get_origin(plain) is list
            of = get_args(plain)[0] if many else object if plain is Any else plain
            owner = next(base for base in kind.__mro__ if item.name in base.__annotations__)
            meaning = trailing_comments(sys.modules[owner.__module__]).get((owner.__name__, item.name), "")
            default, bounds = getattr(blank, item.name), item.metadata.get("range")
            form = item.metadata.get("form", LINE) if of in (str, object) else None
            own.append(Setting(key, of, many, null or plain is Any, default, bounds, form, meaning))
        for one in inner:
            walk(*one)
        described = kind.__doc__ or ""
        if described.startswith(f"{kind.__name__}("):  # generated by @dataclass
            described = ""
        meaning = " ".join(described.split("\n\n")[0].split())
        found.insert(place, Section(prefix, optional, kind.__name__, meaning, tuple(own)))

    walk(schema.Config, "")
    return tuple(found)


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by its key."""
    return {setting.key: setting for section in sections() for setting in section.settings}


@functools.cache
def all_keys() -> tuple[str, ...]:
    """Every setting's key and every section's."""
    return (*(section.key for section in sections() if section.key), *settings())


def choice_meanings() -> dict[tuple[str, str], str]:
    """(name of an enumeration, name of its member) -> its trailing comment."""
    return trailing_comments(choices)


@functools.cache
def trailing_comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """(class, attribute) -> the comment behind its value in the source."""
    found, kind, name = {}, "", ""  # name: of a field whose value goes on in the next lines
    for line in inspect.getsource(module).splitlines():
        if match := re.match(r"class (\w+)", line):
            kind = match[1]
        elif match := re.match(r"    (\w+)(?:: .+?)? = .*?  # (.+)", line):
            found[kind, match[1]] = match[2]
        elif match := re.match(r"    (\w+): .+ = .*\($", line):
            name = match[1]
        elif name and (match := re.match(r"    \)  # (.+)", line)):
            found[kind, name] = match[1]
            name = ""
    return found


def as_text(value: Any) -> str:
    """`value` as text, floats as short as they are exact: 1e-06, 2 for 2.0."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(the type, whether null is allowed)"""
    kinds = get_args(hint)
    if NoneType not in kinds:
        return hint, False
    (plain,) = [kind for kind in kinds if kind is not NoneType]
    return plain, True
