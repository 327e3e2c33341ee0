"""Files and folders that are complete as soon as they exist.

In: text, JSON values, folders written beside. Out: files and folders under their names. Must not know: what they hold.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError

NOT_THE_DISK = (RunError, TimeoutError, ConnectionError)  # an actor's death, or a wait for one


def write_whole(path: Path, text: str) -> None:
    """Write a file beside `path` and rename it; an older one stays intact until then."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """default: makes what JSON does not know into what it does."""
    write_whole(path, json.dumps(value, indent=1, default=default))


def append(path: Path, text: str) -> None:
    """Add lines to a file. OSError: the disk did not take all of them, and the file is as it was."""
    with path.open("ab", buffering=0) as file:
        write_at_end(file, text.encode())


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
    before = target.with_name(f".{target.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        target.rename(before)
    partial.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(before, ignore_errors=True)


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
