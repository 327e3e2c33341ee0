"""The manifest of a folder: name, size and SHA-256 of every file in it, written last.

In: a folder. Out: manifest.json in it; what is wrong with a folder that has one. Must not know: what the files mean.

A manifest proves that nothing was damaged since. It proves nothing about who wrote the folder: whoever can change its
files can write a manifest that fits. SHA-256, because `sha256sum` can check it anywhere; files are read side by side.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAME = "manifest.json"
THREADS = 8  # at most: hashing releases the GIL, 1.4 GB/s a thread


def write(folder: Path, known: Mapping[str, tuple[int, str]]) -> None:
    """Write the manifest of everything that is in `folder`. known: bytes and SHA-256 of files by those who wrote them,
    which are not read here."""
    names = _names(folder)
    read = _digests(folder, [name for name in names if name not in known])
    found = {**{name: ((folder / name).stat().st_size, digest) for name, digest in read.items()}, **known}
    files = {name: {"bytes": found[name][0], "sha256": found[name][1]} for name in sorted(found)}
    (folder / NAME).write_text(json.dumps({"files": files, "sha256": _own_digest(files)}, indent=1), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What differs from the manifest, a file that shows it first: "learner/x.pt is missing"; None: nothing."""
    try:
        files = _read(folder / NAME)
        names = set(_names(folder))
        for name in sorted(files.keys() - names):
            return f"{name} is missing"
        for name in sorted(names - files.keys()):
            return f"{name} is not part of it: remove that file"
        for name, file in files.items():
            if not (folder / name).is_file():
                return f"{name} is no file"
            if (size := (folder / name).stat().st_size) != file["bytes"]:
                return f"{name} has {size:,} bytes instead of {file['bytes']:,}"
        for name, digest in _digests(folder, files).items():
            if digest != files[name]["sha256"]:
                return f"{name} is not what was written (its SHA-256 differs)"
    except OSError as error:
        return f"{Path(error.filename).name if error.filename else 'a file'} cannot be read ({error.strerror})"
    except ValueError:
        return f"{NAME} is not what was written"
    return None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """ValueError for a manifest that is not whole."""
    found = json.loads(path.read_bytes())
    try:
        if found["sha256"] != _own_digest(found["files"]):
            raise ValueError
        return {str(name): {key: one[key] for key in ("bytes", "sha256")} for name, one in found["files"].items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError from error


def _own_digest(files: Any) -> str:
    """So that damage to the manifest is not taken for damage to what it lists."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _names(folder: Path) -> list[str]:
    """Everything but folders, in order; a device or pipe as well, which no manifest lists."""
    found = (Path(root, name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return sorted(path.as_posix() for path in found if path != Path(NAME))


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = [*names]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))
