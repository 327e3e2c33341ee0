"""Command-line overrides, key=value, in which text settings are taken literally.

In: arguments. Out: Hydra's `Override` for each. Must not know: which configuration they change.

Hydra reads 2024_11_28 as the integer 20241128 and 6e45678 as infinity. Here, for every setting whose type in the schema
is text, everything after the first = is the text itself, except that
- null means none, and [a,b] is a list if the setting takes one (the same rule holds for its items),
- a value that begins with a quote ends with it, and the quotes are removed (so "null" is a text),
- ${key} is the value of another setting,
- with --multirun a comma separates the values of the runs, and choice(...) and the like are Hydra's; without it, they
  are rejected.
"""

from __future__ import annotations

import itertools
import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

from conf import renamed
from conf.errors import BadConfig, brief
from conf.groups import groups, options
from conf.ranges import LONGEST_LIST
from conf.settings import Setting, settings

QUOTES = ("'", '"')
LONGEST, NESTED = 40_000, 10  # characters of an argument; lists within each other
SWEEPS = ("choice(", "range(", "interval(", "glob(", "shuffle(", "sort(")  # Hydra's functions for several values


def read_overrides(arguments: list[str], multirun: bool = False) -> list[Override]:
    """Raises BadConfig for an argument that cannot be parsed, or has several values without `multirun`."""
    parser = OverridesParser.create()
    for argument in arguments:
        if len(argument) > LONGEST:
            raise BadConfig(f"{argument[:40]!r}... has {len(argument)} characters: an argument has at most {LONGEST}")
    return [_read(parser, renamed.override(argument), multirun) for argument in arguments]


def combinations(arguments: list[str]) -> list[list[str]]:
    """The overrides of each run of a multirun, as Hydra's own sweeper makes them. Raises BadConfig for what has no list
    of values.

    Example: ["run.name=a,b", "evaluate.seed=1"] -> [["run.name=a", "evaluate.seed=1"], ["run.name=b", ...]]
    """
    parts = []
    for one in read_overrides(arguments, multirun=True):
        if not one.is_sweep_override():
            parts.append([one.input_line or ""])
        elif one.is_discrete_sweep() and not isinstance(one.value(), Glob):
            parts.append([f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()])
        else:
            raise BadConfig(f"{one.input_line}: name the values, {one.get_key_element()}=a,b")
    return [[*found] for found in itertools.product(*parts)]


def pasted(key: str, text: str) -> str:
    """`key=text` as typed in a shell, whatever `text` contains. Example: 'data.path="a,b.jsonl"'"""
    return shlex.quote(f"{key}={quoted(text)}")


def _read(parser: OverridesParser, argument: str, multirun: bool) -> Override:
    key, equals, text = argument.partition("=")
    setting = settings().get(key.lstrip("+~"))
    _refuse_long(key, text, setting)
    try:
        if equals and setting is not None and setting.textual and not text.startswith(SWEEPS):
            argument = f"{key}={_literal(text)}"
        found = parser.parse_override(argument)
        value = found.value()
    except (HydraException, ValueError, RecursionError) as error:
        raise BadConfig(brief(_unreadable(argument, key if equals else "", text))) from error
    if key in groups() and isinstance(value, list | dict):
        raise BadConfig(brief(f"{argument}: choose one of {key}={', '.join(options(key))}"))
    if found.is_sweep_override() and not multirun:
        raise BadConfig(brief(_ambiguous(key, text, setting)))
    return found


def _refuse_long(key: str, text: str, setting: Setting | None) -> None:
    """BadConfig for what takes Hydra many seconds to parse."""
    if (setting is None or setting.many or not setting.textual) and (count := text.count(",") + 1) > LONGEST_LIST:
        raise BadConfig(f"{key} must have at most {LONGEST_LIST} values, got {count}")
    if len(nested := re.sub(r"\s", "", text[: NESTED * 2])) >= NESTED and not nested[:NESTED].strip("[{("):
        raise BadConfig(f"{key} must not have {NESTED} lists within each other, got {text[:60]}...")


def _literal(text: str) -> str:
    """`text`, which may be several values or a list of them, such that Hydra reads back its characters."""
    text = text.strip()
    if len(parts := _parts(text)) > 1:
        return ",".join(map(_literal, parts))
    if text[:1] + text[-1:] == "[]":
        return f"[{_literal(text[1:-1])}]" if text[1:-1] else text
    return text if text.startswith(QUOTES) or text == "null" or "${" in text else quoted(text)


def quoted(text: str) -> str:
    """`text` between double quotes, as Hydra reads it."""
    return QuotedString(text, Quote.double).with_quotes()


def _parts(text: str) -> list[str]:
    """`text` split at its commas, except those within quotes or brackets."""
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            quote = "" if character == quote and not escaped else quote
        elif character in QUOTES:
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and not depth and not escaped:
            parts.append("")
            continue
        escaped = character == "\\" and not escaped
        parts[-1] += character
    return [part.strip() for part in parts]


def _unreadable(argument: str, key: str, text: str) -> str:
    if not key:
        return f"cannot read {argument!r}: write key=value or group=option"
    setting = settings().get(key.lstrip("+~"))
    if setting is None or setting.textual:
        return (
            f"cannot read {argument!r}: special characters stand between quotes, for the shell too: {pasted(key, text)}"
        )
    return f"cannot read {argument!r}: {text!r} is not a valid value of {key}"


def _ambiguous(key: str, text: str, setting: Setting | None) -> str:
    said = f"{key}={text} has several values: add --multirun for one run each"
    if setting is not None and setting.many:
        return f"{said}; as a list: {shlex.quote(f'{key}=[{text}]')}"
    if setting is not None and setting.textual:
        return f"{said}; as one text: {pasted(key, text)}"
    return said
