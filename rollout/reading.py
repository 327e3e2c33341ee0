"""Rows of a local file or a pinned hub data set.

In: a path or a name. Out: rows as dicts, as their publisher wrote them; anything a person can mend is `BadInput`.
Must not know: what the columns mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from conf.schema import DataConf
from rollout.errors import BadInput

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class HubSet:
    """What is pinned of a hub data set. `revision` is a commit of its repository."""

    revision: str
    split: str
    problem_column: str
    answer_column: str
    level_column: str | None = None
    subset: str | None = None


# None of these was ever loaded where this was written (the hub was out of reach). Each commit is the one that several
# unrelated public repositories pin or hold in their caches; columns and splits are as their data cards describe them.
HUB_SETS: dict[str, HubSet] = {
    "openai/gsm8k": HubSet("740312add88f781978c0658806c59bc2815b9866", "train", "question", "answer", subset="main"),
    "HuggingFaceH4/MATH-500": HubSet("6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test", "problem", "answer", "level"),
    "HuggingFaceH4/aime_2024": HubSet("2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "train", "problem", "answer"),
    "agentica-org/DeepScaleR-Preview-Dataset": HubSet(
        "b6ae8c60f5c1f2b594e2140b91c49c9ad0949e29", "train", "problem", "answer"
    ),
}


# ---- reading files ----


def read_rows(path: str | Path, key: str) -> list[Row]:
    """All rows of a .jsonl, .json (list of objects, object of lists, or lines) or .parquet file; never empty.

    `key` is the configuration key that named the file, for the messages of BadInput.
    """
    path = Path(path).expanduser()
    where = f"{key}={path}"
    if path.is_dir():
        raise BadInput(f"{where} is a folder: name one {'/'.join(SUFFIXES)} file in it")
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{where}: unknown kind of file {path.suffix!r}; must be one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        there = path.parent.iterdir() if path.parent.is_dir() else ()
        raise BadInput(f"{where}: no such file{nearest(path.name, [p.name for p in there])}")
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else _json(path, where)
    except OSError as error:
        raise BadInput(f"{where}: cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    if not rows:
        raise BadInput(f"{where}: the file is empty; it must hold at least one row")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadInput(f"{where}: row {index} is a {type(row).__name__}; each row must be an object with columns")
    return rows


def _parquet(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path}: not a parquet file ({first_line(error)})") from error


def _json(path: Path, where: str) -> list[Any]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return []
    if path.suffix == ".jsonl":
        return _json_lines(text, where)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # the first value is complete: one object a line
            return _json_lines(text, where)
        raise _not_json(where, error.lineno, error) from error
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and whole and all(isinstance(column, list) for column in whole.values()):
        columns: list[list[Any]] = list(whole.values())
        if len(columns) == 1 and all(isinstance(row, dict) for row in columns[0]):
            return columns[0]  # {"data": [{...}, ...]}
        if len({len(column) for column in columns}) > 1:
            sizes = listed(f"{name}: {len(column)}" for name, column in whole.items())
            raise BadInput(f"{where}: its columns differ in length ({sizes}); mend the file")
        return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]
    raise BadInput(f"{where}: holds a {type(whole).__name__}; must be a list of objects or an object of lists")


def _json_lines(text: str, where: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand inside a string
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise _not_json(where, number, error) from error
    return rows


def _not_json(where: str, line: int, error: json.JSONDecodeError) -> BadInput:
    return BadInput(f"{where}, line {line}: not JSON ({error.msg}, column {error.colno}); mend or remove that line")


# ---- reading the hub ----


def is_hub_name(path: str) -> bool:
    """An existing file, a file-like name and an absolute or dotted path are local; "owner/name" is the hub's."""
    if path in HUB_SETS:
        return not Path(path).exists()
    return (
        bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path))
        and not re.search(r"\.[A-Za-z]\w*$", path)
        and not Path(path).exists()
    )


def hub_rows(conf: DataConf) -> tuple[list[Row], str, str]:
    """(rows, source, uid stem)"""
    name, pinned = str(conf.path), HUB_SETS.get(str(conf.path))
    revision = conf.revision or (pinned.revision if pinned else None)
    split = conf.split or (pinned.split if pinned else "train")
    subset = conf.subset or (pinned.subset if pinned else None)
    if not revision:
        raise BadInput(
            f"data.path={name}: no such file, and as a hub data set it has no pinned revision: "
            f"give data.revision=<commit>, or one of {', '.join(HUB_SETS)}"
        )
    import datasets

    try:
        table = datasets.load_dataset(name, subset, split=split, revision=revision)
        rows: list[Row] = [dict(row) for row in table]
    except Exception as error:  # network, hub and builder each raise their own kinds: all end here, with the cause
        raise BadInput(
            f"data.path={name}: the hub data set (revision {revision}, split {split}) could not be loaded "
            f"({type(error).__name__}: {first_line(error)}); where the hub is out of reach, "
            "download the data elsewhere and give data.path=<local .jsonl/.json/.parquet file>"
        ) from error
    if not rows:
        raise BadInput(f"data.path={name}: split {split} of the hub data set is empty; give another data.split")
    return rows, name, f"{name}/{split}"


# ---- words for messages ----


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))


def nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"; nearest: {near[0]}" if near else ""


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]
