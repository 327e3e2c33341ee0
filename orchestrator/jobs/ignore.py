"""Which files of a folder its ignore files leave out, by the rules of .gitignore.

In: a folder. Out: its other files. Must not know: what they are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = (".gitignore", ".rayignore", ".thinklessignore")  # of every folder; a later one has the last word
NEVER = frozenset({".git", ".venv", "venv", "runs", "multirun", "outputs", "node_modules", "__pycache__", ".bench"})
CACHE = re.compile(r"\..*_?cache|\.hypothesis|.*\.egg-info|.*\.py[co]")
ENVIRONMENT = "pyvenv.cfg"  # what a folder with a virtual environment holds


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of an ignore file. It is matched with paths relative to the file's folder."""

    pattern: re.Pattern[str]
    base: str  # that folder, relative to the top: "" or "data/"
    negated: bool  # the line began with !
    folders_only: bool

    def matches(self, path: str, folder: bool) -> bool:
        inside = path.startswith(self.base) and (folder or not self.folders_only)
        return inside and self.pattern.fullmatch(path[len(self.base) :]) is not None


def kept(top: Path) -> Iterator[str]:
    """Files below `top` as "data/train.jsonl", sorted. Links are followed, to each folder once."""
    yield from _walk(top, "", [], {os.path.realpath(top)})


def never(name: str) -> bool:
    """Whether no ignore file can bring a file or folder of this name back."""
    return name in NEVER or CACHE.fullmatch(name) is not None


def read_rules(text: str, base: str = "") -> list[Rule]:
    """The rules of an ignore file in the folder `base`."""
    rules = []
    for line in text.splitlines():
        line = re.sub(r"(?<!\\)\s+$", "", line)
        if not line or line.startswith("#"):
            continue
        negated = line.startswith("!")
        body = line[1:] if negated else line
        folders_only = body.endswith("/")
        body = body.rstrip("/")
        anchored = "/" in body
        anywhere = "" if anchored else r"(?:.*/)?"
        try:
            pattern = re.compile(anywhere + _regex(body.lstrip("/")))
        except re.error:  # e.g. [z-a], of which git matches next to nothing
            continue
        rules.append(Rule(pattern, base, negated, folders_only))
    return rules


def _walk(top: Path, base: str, rules: list[Rule], seen: set[str]) -> Iterator[str]:
    for name in FILES:
        if (top / base / name).is_file():
            rules = [*rules, *read_rules((top / base / name).read_text(encoding="utf-8", errors="replace"), base)]
    for entry in sorted(os.scandir(top / base), key=lambda one: one.name):
        path, folder = base + entry.name, entry.is_dir()
        verdict = next((rule for rule in reversed(rules) if rule.matches(path, folder)), None)
        if never(entry.name) or (verdict and not verdict.negated):
            continue
        if entry.is_file():
            yield path
        elif folder and not (top / path / ENVIRONMENT).exists():
            real = os.path.realpath(entry.path)
            if real not in seen:
                yield from _walk(top, f"{path}/", rules, seen | {real})


def _regex(body: str) -> str:
    """Of a pattern's path: `**` stands for any folders, `*` and `?` for characters of one name."""
    parts = []
    at = 0
    while at < len(body):
        if body.startswith("**/", at) and (at == 0 or body[at - 1] == "/"):
            parts.append(r"(?:.*/)?")
            at += 3
        elif body[at:] == "**" and (at == 0 or body[at - 1] == "/"):
            parts.append(r".+")
            at += 2
        elif body[at] == "*":
            parts.append(r"[^/]*")
            at += 1
        elif body[at] == "?":
            parts.append(r"[^/]")
            at += 1
        elif body[at] == "[" and (end := body.find("]", at + 2 + (body[at + 1 : at + 2] in ("!", "^")))) > 0:
            inner = re.sub(r"[\[\]\\]", r"\\\g<0>", body[at + 1 : end])
            parts.append(f"[{'^' + inner[1:] if inner[0] in '!^' else inner}]")
            at = end + 1
        else:
            at += body[at] == "\\" and at + 1 < len(body)
            parts.append(re.escape(body[at]))
            at += 1
    return "".join(parts)
