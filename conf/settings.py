"""Every setting as `conf.schema` declares it: key, type, default, meaning.

In: the dataclasses of `conf.schema` and their trailing comments. Out: one `Setting` per key. Must not know: Hydra,
what a setting does.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import tokenize
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from types import ModuleType, NoneType
from typing import Any, get_args, get_origin, get_type_hints

from conf import choices, schema

ABSENT = object()  # the value of a setting whose section is null


@dataclass(frozen=True)
class Setting:
    """One key of the configuration."""

    key: str  # e.g. "rollout.dynamic_sampling.rounds"
    kind: Any  # bool, int, float, str, an Enum, or object where any value may stand; a list's: that of its items
    many: bool  # a list
    optional: bool  # null is a value, too
    default: Any
    meaning: str  # the schema's trailing comment; empty: the name says it

    @property
    def numeric(self) -> bool:
        return self.kind in (int, float)

    @property
    def textual(self) -> bool:
        """Text, or a list of texts: it keeps the characters that are typed."""
        return self.kind in (str, object)

    def of(self, conf: schema.Config) -> Any:
        """Its value in `conf`; ABSENT when its section is null."""
        value: Any = conf
        for name in self.key.split("."):
            if value is None:
                return ABSENT
            value = getattr(value, name)
        return value


@dataclass(frozen=True)
class Section:
    """A dataclass of the schema: its settings share the prefix `key`."""

    key: str  # "" for the settings beside the sections
    kind: str  # the dataclass's name
    meaning: str  # first paragraph of its docstring
    settings: tuple[Setting, ...]


@functools.cache
def sections() -> tuple[Section, ...]:
    """All sections, in the schema's order, those within others behind them."""
    comments = trailing_comments(schema)
    found: list[Section] = []

    def walk(kind: Any, prefix: str) -> None:
        place, own, inner = len(found), [], []
        hints, blank = get_type_hints(kind), kind()
        for item in fields(kind):
            key = f"{prefix}.{item.name}" if prefix else item.name
            plain, optional = _without_none(hints[item.name])
            if is_dataclass(plain):
                inner.append((plain, key))
                continue
            many = get_origin(plain) is list
            of = get_args(plain)[0] if many else object if plain is Any else plain
            meaning = comments.get((kind.__name__, item.name), "")
            own.append(Setting(key, of, many, optional or plain is Any, getattr(blank, item.name), meaning))
        for one, key in inner:
            walk(one, key)
        described = kind.__doc__ or ""
        if described.startswith(f"{kind.__name__}("):  # made up by @dataclass
            described = ""
        found.insert(place, Section(prefix, kind.__name__, " ".join(described.split("\n\n")[0].split()), tuple(own)))

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


@functools.cache
def choice_meanings() -> dict[tuple[str, str], str]:
    """(name of an enumeration, name of its member) -> its trailing comment."""
    return trailing_comments(choices)


def trailing_comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """(class, attribute) -> the comment behind it in the source."""
    source = inspect.getsource(module)
    comments: dict[int, str] = {}  # by line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            comments[token.start[0]] = token.string.removeprefix("#").strip()
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign):
                target: ast.expr = item.target
            elif isinstance(item, ast.Assign):
                target = item.targets[0]
            else:
                continue
            lines = range(item.lineno, (item.end_lineno or item.lineno) + 1)
            said = " ".join(comments[line] for line in lines if line in comments)
            if said and isinstance(target, ast.Name):
                found[node.name, target.id] = said
    return found


def choices_of(setting: Setting) -> list[str]:
    """The values of a setting that is an enumeration; else none."""
    if isinstance(setting.kind, type) and issubclass(setting.kind, Enum):
        return [member.value for member in setting.kind]
    return ["true", "false"] if setting.kind is bool else []


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(the type, whether null is allowed)"""
    kinds = get_args(hint)
    if NoneType not in kinds:
        return hint, False
    (plain,) = [kind for kind in kinds if kind is not NoneType]
    return plain, True
