"""Files and folders that are complete as soon as they exist.

In: text, JSON values, folders written beside. Out: files and folders under their names. Must not know: what they hold.

A file is written beside and renamed, or lines are appended to it; nothing is changed in place. So a kill, a full disk
or a power cut leaves the old content or the new one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.base.errors import RunError

COPIED = 1 << 20  # bytes at a time
NOT_THE_DISK = (RunError, TimeoutError, ConnectionError)  # an actor's death, or a wait for one


@contextlib.contextmanager
def beside(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place, on the disk, when the body ends. When the body raises, or the
    process is killed, `path` is as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str | bytes) -> None:
    """An older file stays intact until the new one is complete."""
    data = text.encode() if isinstance(text, str) else text
    with beside(path) as file:
        file.write(data)


def keep_beginning(path: Path, size: int) -> None:
    """Cut a file behind its first `size` bytes: on a copy, which takes its place."""
    if path.stat().st_size == size:
        return
    with path.open("rb") as old, beside(path) as new:
        while size and (piece := old.read(min(size, COPIED))):
            new.write(piece)
            size -= len(piece)


def copy_whole(source: Path, target: Path) -> None:
    """A copy of a file's content; an older `target` stays intact until then."""
    with source.open("rb") as old, beside(target) as new:
        shutil.copyfileobj(old, new)


def crc32(path: Path) -> int:
    """Of a file's content."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(COPIED):
            found = zlib.crc32(piece, found)
    return found


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write beside files. For whoever holds the folder's lock."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the disk know the names in it: a power cut must not bring a replaced file back."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that cannot
            raise
    finally:
        os.close(file)


def write_json(path: Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """default: makes what JSON does not know into what it does."""
    write_whole(path, json.dumps(value, indent=1, default=default))


def append(path: Path, text: str | bytes) -> None:
    """Add lines to a file. OSError: the disk did not take all of them, and the file is as it was."""
    with path.open("ab", buffering=0) as file:
        write_at_end(file, text.encode() if isinstance(text, str) else text)


def write_at_end(file: FileIO, data: bytes) -> None:
    """All of `data` at the end of an unbuffered file, or OSError and nothing of it: a file of lines gets no torn
    one that later lines would follow."""
    end = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        file.truncate(end)
        raise


@contextlib.contextmanager
def whole_folder(target: Path, failed: Callable[[str], Exception] | None = None) -> Iterator[Path]:
    """An empty folder beside `target` that takes its place when the body ends.

    When the body raises, that folder is removed, and `target` stays as it was. failed: makes the error to raise instead
    of one of the disk (OSError, RuntimeError) from its reason, "No space left on device; 3 MiB free".
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        replace_folder(partial, target)
    except (OSError, RuntimeError) as error:
        if failed is None or isinstance(error, NOT_THE_DISK):
            raise
        raise failed(reason(error, target.parent.parent)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def reason(error: Exception, folder: Path) -> str:
    """Why something could not be written in `folder`, with the room there: "No space left on device; 3 MiB free"."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{first}; {shutil.disk_usage(folder).free / 2**20:.0f} MiB free"


def replace_folder(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`, which it replaces, once all of it is on the disk: a power cut must not leave a
    complete-looking folder of empty files."""
    for path in partial.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(partial)
    if target.exists() and not _exchange(partial, target):
        shutil.rmtree(target)
    if not target.exists():
        partial.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(partial, ignore_errors=True)  # the old one, after an exchange


def _exchange(one: Path, other: Path) -> bool:
    """Each gets the other's name, at once; False where the file system cannot."""
    here = -100  # AT_FDCWD: paths are as they are
    names = os.fsencode(one), os.fsencode(other)
    return not ctypes.CDLL(None).renameat2(here, names[0], here, names[1], 2)  # RENAME_EXCHANGE
