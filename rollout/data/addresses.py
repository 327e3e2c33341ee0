"""Resolves a configured path to local files: globs, folders of shards and addresses such as s3:// and hf://.

In: one path or address. Out: the files, or the saved `datasets` folder, that it means; remote ones are fetched into a
temporary folder of this process. Anything the user can fix is `BadInput`. Must not know: the files' contents.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from rollout.base.errors import BadInput
from rollout.data.files import COMPRESSED, SUFFIXES, first_line, kind_of, listed

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
PACKAGES |= {"http": "requests aiohttp", "https": "requests aiohttp", "hf": "huggingface_hub"}
SAVED = ("dataset_info.json", "dataset_dict.json")  # `datasets.save_to_disk` writes one of them
NO_DATA = {*SAVED, "dataset_infos.json", "state.json"}  # and these next to the data
NO_DATA |= {"card.json", "dropped.jsonl"}  # and `thinkless distill` these
MOST_FILES = 20_000  # in a folder of this machine, with all below it: / and home folders have more, and take minutes


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or (saved) a folder for `datasets.load_from_disk`."""

    local: Path
    name: str  # for messages: full path or address
    saved: bool = False


def is_address(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """The full path of a local `path`; an address unchanged."""
    return path if is_address(path) else str(Path(path).expanduser().absolute())


def exists(path: str) -> bool:
    """Whether `path` is an address, a glob, or exists on this machine's disk, so that the hub is not needed."""
    return is_address(path) or Path(path).expanduser().exists() or _is_glob(path)


def locate(path: str, key: str, split: str | None, subset: str | None) -> list[Found]:
    """The files that `path` means, at least one, in natural order (part-2 before part-10).

    A folder may contain one data set: one file, or the shards of one. `split` and `subset` choose if there are several.
    `key` is the configuration key, for messages. Raises BadInput.
    """
    full = absolute(path)
    where = f"{key}={path}" + ("" if full == path else f" ({full})")
    try:
        system, root = filesystem(full, where)
        if system.isfile(root):
            found: Sequence[str] = [root]
        elif system.isdir(root):
            if any(name in SAVED for name in _names(system, root)):
                return [Found(_fetched(system, root), full, saved=True)]
            found = _in_folder(system, root, key, where, split, subset)
        elif _is_glob(root):
            found = [name for name in system.glob(root) if system.isfile(name)]
            if not found:
                raise BadInput(f"{where}: no file matches")
        else:
            if PurePosixPath(root).suffix:
                _refuse_kind(root, where)
            folder, _, name = root.rpartition("/")
            hint = nearest(name, _names(system, folder) if system.isdir(folder) else [])
            looked = "" if full == path else f" (looked for {full})"
            raise BadInput(f"{key}={path}: no such file or folder{looked}{hint}")
        for name in found:
            _refuse_kind(name, where)
        scheme = full.partition("://")[0] + "://" if is_address(full) else ""
        return [Found(_fetched(system, name), scheme + name) for name in sorted(found, key=_natural)]
    except BadInput:
        raise
    except Exception as error:  # file systems raise their own exceptions (network, credentials)
        raise BadInput(f"{where}: cannot be read ({type(error).__name__}: {first_line(error)})") from error


def _names(system: Any, folder: str) -> list[str]:
    return [PurePosixPath(path).name for path in system.ls(folder, detail=False)]


def nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"; nearest: {near[0]}" if near else ""


# ---- folders ----


def _in_folder(system: Any, root: str, key: str, where: str, split: str | None, subset: str | None) -> Sequence[str]:
    """The files of the one data set in a folder; shards differ only by a number at the end of their names."""
    sets: dict[str, list[str]] = {}
    for file in sorted(_below(system, root, where), key=_natural):
        inner = PurePosixPath(file.removeprefix(root).strip("/"))
        if kind_of(inner.name) and inner.name not in NO_DATA and not any(part[0] in "._" for part in inner.parts):
            sets.setdefault(_without_number(str(inner)), []).append(file)
    if not sets:
        raise BadInput(f"{where} is a folder without a {'/'.join(SUFFIXES)} file")
    for name, files in list(sets.items()):
        numbers = [_number(file) for file in files]
        in_order = [[*range(first, first + len(files))] for first in (0, 1)]
        if len(files) > 1 and [number for number, _ in numbers] not in in_order:
            if all(of for _, of in numbers):
                continue  # some shards are missing: reported below
            del sets[name]  # aime_2024 and aime_2025 are two data sets
            sets |= {file.removeprefix(root).strip("/"): [file] for file in files}
    section = key.partition(".")[0]
    words = [word for word in (subset, split) if word]
    chosen = {name: files for name, files in sets.items() if {*words} <= {*re.split(r"[/._-]", name)}}
    if len(chosen) != 1:
        names = listed(sorted(chosen or sets))
        what = "several data sets" if chosen else f"no data set named {listed(words)}"
        raise BadInput(
            f"{where} is a folder with {what} ({names}): choose by {section}.split=<word of the name>, or name files"
        )
    ((name, files),) = chosen.items()
    for _, of in map(_number, files):
        if of and len(files) != of:
            raise BadInput(f"{where}: {len(files)} of the {of} shards of {name} are there; get the others")
    return files


def _below(system: Any, root: str, where: str) -> list[str]:
    """Every file in a folder and in those within it."""
    if "file" not in system.protocol:  # a request for a thousand files, not one for each folder
        return list(system.find(root))
    files = list[str]()
    for _, _, found in system.walk(root, detail=True):
        files += [one["name"] for one in found.values()]
        if len(files) > MOST_FILES:
            raise BadInput(
                f"{where} is a folder with more than {MOST_FILES} files: name the data's own folder, or files"
            )
    return files


_SHARD = re.compile(r"(?:^|[-_.])(\d+)(?:[-_]of[-_](\d+))?$")


def _stem(file: str) -> tuple[str, str]:
    """("train-00000-of-00002", ".jsonl.gz")"""
    suffixes = ""
    while (path := PurePosixPath(file)).suffix in (*SUFFIXES, *COMPRESSED):
        file, suffixes = str(path.with_suffix("")), path.suffix + suffixes
    return file, suffixes


def _without_number(file: str) -> str:
    stem, suffixes = _stem(file)
    folder, _, name = stem.rpartition("/")
    return f"{folder}/{_SHARD.sub('', name)}{suffixes}".lstrip("/")


def _number(file: str) -> tuple[int | None, int]:
    """(number of a shard, of how many): (3, 5) for train-00003-of-00005.parquet; of 0 if the name does not say."""
    found = _SHARD.search(_stem(PurePosixPath(file).name)[0])
    return (int(found[1]), int(found[2] or 0)) if found else (None, 0)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _is_glob(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _refuse_kind(name: str, where: str) -> None:
    if kind_of(name) is None:
        suffix = "".join(PurePosixPath(name).suffixes[-2 if name.endswith(COMPRESSED) else -1 :])
        raise BadInput(
            f"{where}: unknown kind of file {suffix!r}; must be one of {listed(SUFFIXES)} "
            f"(all but parquet and arrow may end in {'/'.join(COMPRESSED)} as well)"
        )


# ---- file systems (fsspec) ----


def filesystem(full: str, where: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it. Raises BadInput for one that is not known, or not installed; `where`
    begins the message."""
    import fsspec
    from fsspec.core import url_to_fs

    scheme = full.partition("://")[0] if is_address(full) else "file"
    try:
        return url_to_fs(full) if is_address(full) else (fsspec.filesystem("file"), full)
    except ImportError as error:
        package = PACKAGES.get(scheme, "the package that fsspec names")
        raise BadInput(f"{where}: {scheme}:// needs a package that is not installed: pip install {package}") from error
    except ValueError as error:
        if "not known" not in str(error):
            raise
        raise BadInput(f"{where}: unknown kind of address {scheme}://; s3, gs, hf, https and file are known") from error


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="thinkless-data-")  # removed when this process ends


@cache
def _fetched(system: Any, name: str) -> Path:
    """The local path of a file or folder; a remote one is fetched once."""
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(system, LocalFileSystem):
        return Path(name)
    target = Path(tempfile.mkdtemp(dir=_scratch().name)) / PurePosixPath(name).name
    system.get(name, str(target), recursive=system.isdir(name))
    return target
