"""What `--help` prints of the configuration: groups and options, every setting with its value, meaning and range.

In: the schema's settings, values, words to choose by. Out: text. Must not know: Hydra, commands.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from enum import Enum
from typing import Any

from conf.errors import BadConfig
from conf.groups import description, groups, options
from conf.schema import Config
from conf.settings import ABSENT, Section, Setting, as_text, choice_meanings, sections

NARROW = 76  # columns below which a meaning stands under its setting, not beside it
WIDEST = 120
BESIDE = 38  # columns of the settings, where meanings stand beside them

WRITING = """\
Write key=value. Text keeps its characters (run.name=2024_11_28, model.path=a=b); quotes are needed around a comma, a
quote or surrounding spaces, and for the shell around all of it: 'data.path="a,b.jsonl"'. null: none, where a setting
says so. Lists: 'learner.betas=[0.9,0.95]'. ${key}: the value of another setting.
"""


def configuration_help(words: Sequence[str] = (), values: Config | None = None) -> str:
    """words: choose what holds one of them in its name; none: all. values: shown instead of the defaults.

    Raises BadConfig when nothing holds any of the words.
    """
    width = min(WIDEST, max(40, shutil.get_terminal_size((100, 24)).columns))
    parts = [_group(group, width) for group in groups() if _chosen(group, words)]
    if parts:
        parts.insert(0, "Groups (group=option):")
    listed = [_section(section, words, values, width) for section in sections()]
    if any(listed):
        shown = "the values they would have" if values else "their defaults"
        parts.append(_wrapped(f"Settings (key=value; shown with {shown}):", width, ""))
    parts += [part for part in listed if part]
    if not parts:
        raise BadConfig(f"--help {' '.join(words)}: no group, section or setting has such a name")
    if not words:
        parts = [_wrapped(WRITING, width, ""), *parts]
    return "\n\n".join(parts) + "\n"


def _chosen(name: str, words: Sequence[str]) -> bool:
    return not words or any(word.lower() in name for word in words)


def _group(group: str, width: int) -> str:
    return "\n".join(_entry(f"{group}={option}", description(group, option), width) for option in options(group))


def _section(section: Section, words: Sequence[str], values: Config | None, width: int) -> str:
    chosen = [one for one in section.settings if _chosen(one.key, words)]
    if not chosen:
        return ""
    title = f"{section.key}: {section.meaning}" if section.meaning else f"{section.key}:" if section.key else ""
    lines = [_wrapped(title, width, "")] if title else []
    return "\n".join([*lines, *(_entry(f"{one.key}={_value(one, values)}", _meaning(one), width) for one in chosen)])


def _entry(left: str, right: str, width: int) -> str:
    """Two columns where there is room, else the second one below the first."""
    if len(left) + 2 > width:  # a default of many words
        above = textwrap.fill(
            left, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
        )
    else:
        above = f"  {left}"
    if not right:
        return above
    if width < NARROW:
        return f"{above}\n{_wrapped(right, width, '      ')}"
    beside = _wrapped(right, width, " " * BESIDE)
    if len(left) + 4 > BESIDE:
        return f"{above}\n{beside}"
    return f"  {left}".ljust(BESIDE) + beside[BESIDE:]


def _wrapped(text: str, width: int, indent: str) -> str:
    together = re.sub(r"\S+ in [\[(]\S+ \S+[\])]", lambda found: found[0].replace(" ", "\0"), " ".join(text.split()))
    filled = textwrap.fill(
        together,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace("\0", " ")


def _meaning(setting: Setting) -> str:
    """Its comment in the schema and what it takes: "vLLM engines, one Ray actor each (integer in [1, 10000])"."""
    if setting.range is not None:
        takes = setting.valid if setting.many else f"{'integer' if setting.kind is int else 'number'} {setting.valid}"
    elif isinstance(setting.kind, type) and issubclass(setting.kind, Enum):
        said = choice_meanings()
        each = [(one.value, said.get((setting.kind.__name__, one.name))) for one in setting.kind]
        takes = "; ".join(f"{value}: {meaning}" if meaning else value for value, meaning in each)
    else:
        takes = {bool: "true or false", str: "text"}.get(setting.kind, "")
        takes += " or null" if setting.optional and takes else ""
    return f"{setting.meaning} ({takes})" if setting.meaning and takes else setting.meaning or takes


def _value(setting: Setting, values: Config | None) -> str:
    value: Any = setting.default if values is None else setting.of(values)
    if value is ABSENT:
        value = setting.default
    return _text(value)


def _text(value: Any) -> str:
    """As it is written in an override."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return as_text(value)
