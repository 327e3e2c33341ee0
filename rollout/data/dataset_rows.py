"""The rows of a configured `path`: local files, folders, addresses, or a pinned hub data set.

In: a section of the configuration (`data`, `validation`, `warmup`) with its name. Out: `Part`s with rows as dicts, as
published or as an adapter returns them; anything the user can fix is `BadInput`. Must not know: what the columns mean.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from conf.source import SourceConf
from rollout.base.errors import BadInput
from rollout.base.load_function import load_function
from rollout.data.addresses import Found, absolute, exists, is_address, locate, nearest
from rollout.data.files import SUFFIXES, Rows, first_line, listed, rows_of, stem_of, table

SKIPPED = "skipped by the adapter"  # the reason for which a row is left out
UPLOADED = re.compile(r"_ray_pkg_[0-9a-f]+")  # a job's folder, by a hash of all its files: uids outlive it


@dataclass(frozen=True, slots=True)
class HubSet:
    """What is pinned of a hub data set. `revision` is a commit of its repository."""

    revision: str | None = None
    split: str = "train"
    problem_column: str | None = None
    answer_column: str | None = None
    level_column: str | None = None
    subset: str | None = None


# None of these has been loaded by its hub name here (docs/gpu.md). Each commit is the one that several
# unrelated public repositories pin or have in their caches; columns and splits are those of the data cards.
HUB_SETS: dict[str, HubSet] = {
    "openai/gsm8k": HubSet("740312add88f781978c0658806c59bc2815b9866", "train", "question", "answer", subset="main"),
    "HuggingFaceH4/MATH-500": HubSet("6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test", "problem", "answer", "level"),
    "HuggingFaceH4/aime_2024": HubSet("2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "train", "problem", "answer"),
    "agentica-org/DeepScaleR-Preview-Dataset": HubSet(
        "b6ae8c60f5c1f2b594e2140b91c49c9ad0949e29", "train", "problem", "answer"
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One file, or one split of a data set."""

    rows: Rows
    source: str  # "folder/stem" of a file, the hub's name of a data set
    stem: str  # prefix of its problems' uids; different for each part of a run
    pinned: HubSet = HubSet()


def read_parts(conf: SourceConf, key: str) -> list[Part]:
    """The parts of `conf.path`, which is one path or a list of them, in the order given.

    A path is, tried in this order: an address (s3://, file://, ...); a file or folder on disk; a glob; a hub
    data set's name. Rows are read lazily, and may raise BadInput then. `key` is the section's name.
    """
    if not conf.path:
        raise BadInput(f"{key}.path is not set: give a {'/'.join(SUFFIXES)} file or a hub data set's name")
    paths = list(conf.path) if isinstance(conf.path, list | tuple) else [conf.path]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise BadInput(f"{key}.path must be a path or a list of paths, got {path!r} ({type(path).__name__})")
    parts: list[Part] = []
    seen: set[str] = set()
    for path in paths:
        if is_hub_name(path):
            parts.append(_hub(conf, path, key))
            continue
        for found in locate(path, f"{key}.path", conf.split, conf.subset):
            if found.name in seen:
                raise BadInput(f"{key}.path names {found.name} twice")
            seen.add(found.name)
            parts.append(_saved(conf, found, key) if found.saved else _file(found, f"{key}.path={found.name}"))
    count = Counter(part.stem for part in parts)  # two folders of the same name may be in different places
    return [replace(p, stem=f"{p.stem}@{i}") if count[p.stem] > 1 else p for i, p in enumerate(parts)]


def adapted(part: Part, spec: str, key: str, needed: Sequence[str]) -> Iterator[Mapping[str, Any] | None]:
    """What the function `spec` (pkg.mod:fn) makes of each row: a dict with the keys `needed`, or None to skip the row.

    Raises BadInput, with the row: it failed, or returned anything else. `key` is the setting that names it.
    """
    adapter = load_function(spec, key)
    for index, row in enumerate(part.rows.read(None)):
        where = f"{part.source}, row {index}: {key}={spec}"
        try:
            found = adapter(dict(row))
        except Exception as error:
            raise BadInput(f"{where} raised {type(error).__name__}: {first_line(error)}") from error
        if found is not None and (not isinstance(found, Mapping) or not {*needed} <= {*found}):
            raise BadInput(f"{where} must return a dict with {' and '.join(needed)}, or None; got {found!r:.80}")
        yield found


def refuse_absent_column(name: str, present: Sequence[str], source: str, key: str) -> None:
    """BadInput unless `name`, the value of the setting `key`, is among the columns of `source`."""
    if name not in present:
        raise BadInput(
            f"{source} has no column {name!r} ({key}); its columns are {listed(present)}{nearest(name, present)}"
        )


@dataclass(slots=True)
class LeftOut:
    """Rows that cannot be used: how many for which reason, and where the first of them is."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, source: str, row: int) -> None:
        """row: counted from 0."""
        self.counts[reason] += 1
        if reason != SKIPPED:
            self.first.setdefault(reason, f"row {row} of {source}")

    def said(self, rows: int) -> str:
        """Example: "3 of 90 rows not usable (answer is null: 2, the first is row 7 of math/train; answer is empty: 1,
        the first is row 80 of math/train)"."""
        each = [
            f"{reason}: {count}" + (f", the first is {self.first[reason]}" if reason in self.first else "")
            for reason, count in self.counts.items()
        ]
        return f"{self.counts.total()} of {rows} rows not usable ({'; '.join(each)})"

    def refuse(self, kept: int, share: float, where: str, limit: str, advice: str) -> None:
        """BadInput when there is no row, none was kept, or more than `share` of them (`limit` in words) are unusable.

        Those skipped by an adapter are not counted as faulty.
        """
        if not (rows := kept + self.counts.total()):
            raise BadInput(f"{where}: the file is empty; it must hold at least one row")
        if not kept or self.counts.total() - self.counts[SKIPPED] > share * rows:
            said = f"more than {limit}" if kept else "none is left"
            raise BadInput(f"{where}: {said}, {self.said(rows)}; {advice}")


def is_hub_name(path: str) -> bool:
    """Existing files, file-like names and absolute or dotted paths are local; "owner/name" is the hub's."""
    if exists(path):
        return False
    return path in HUB_SETS or bool(
        re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) and not re.search(r"\.[A-Za-z]\w*$", path)
    )


def _file(found: Found, where: str) -> Part:
    name = PurePosixPath(found.name.partition("://")[2] if is_address(found.name) else found.name)
    folder = "job" if UPLOADED.fullmatch(name.parent.name) else name.parent.name
    source = f"{folder}/{stem_of(name.name)}"
    return Part(rows_of(found.local, where), source, source)


# ---- the `datasets` library: saved folders and the hub ----


def _saved(conf: SourceConf, found: Found, key: str) -> Part:
    """A folder written by `datasets.save_to_disk`: one table, or several named splits."""
    import datasets

    where = f"{key}.path={found.name}"
    try:
        saved = datasets.load_from_disk(str(found.local))
    except Exception as error:  # files and metadata raise various exceptions
        raise BadInput(
            f"{where}: cannot be read as a saved data set ({type(error).__name__}: {first_line(error)})"
        ) from error
    if isinstance(saved, dict):
        split = conf.split or (next(iter(saved)) if len(saved) == 1 else None)
        if split not in saved:
            raise BadInput(f"{where} has the splits {listed(saved)}: choose one with {key}.split")
        saved = saved[split]
    name = PurePosixPath(found.name)
    source = f"{name.parent.name}/{name.name}"
    return Part(_dataset(saved, where), source, f"{source}/{conf.split}" if conf.split else source)


def _hub(conf: SourceConf, name: str, key: str) -> Part:
    pinned = HUB_SETS.get(name, HubSet())
    revision, split, subset = conf.revision or pinned.revision, conf.split or pinned.split, conf.subset or pinned.subset
    looked = f"no such file or folder (looked for {absolute(name)})"
    if not revision:
        raise BadInput(
            f"{key}.path={name}: {looked}, and as a hub data set it has no pinned revision: "
            f"give {key}.revision=<commit>, or one of {', '.join(HUB_SETS)}"
        )
    import datasets

    try:
        loaded = datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # network, hub and builder raise their own exceptions
        raise BadInput(
            f"{key}.path={name}: {looked}, and the hub data set (revision {revision}, split {split}) could not be "
            f"loaded ({type(error).__name__}: {first_line(error)}); if the hub cannot be reached, "
            f"download the data elsewhere and give {key}.path=<local {'/'.join(SUFFIXES)} file>"
        ) from error
    if not len(loaded):
        raise BadInput(f"{key}.path={name}: split {split} of the hub data set is empty; give another {key}.split")
    return Part(_dataset(loaded, f"{key}.path={name}"), name, f"{name}/{split}", pinned)


def _dataset(loaded: Any, where: str) -> Rows:
    """Rows of a `datasets.Dataset`, as stored in arrow. where: its name in messages."""

    def batches(names: Sequence[str] | None) -> Iterator[Any]:
        chosen = loaded if names is None else loaded.select_columns(list(names))
        yield from chosen.with_format("arrow").iter(1000)

    return table(loaded.features.arrow_schema, batches, where)
