"""A lock file for folders that one process at a time may write to. It is freed when its process dies; meanwhile it says
which process that is, of which command, and since when.

In: a path. Out: the lock, held or not. Must not know: what it protects.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.base.errors import RunError, WaitedTooLong

TEXT = 500  # bytes of a lock file that are read
LONGEST_S = 24 * 3600.0
HELD = (errno.EWOULDBLOCK, errno.EACCES)  # what flock says of a lock that another holds


class Taken(Exception):
    """Another process holds the lock; its text says which, see `holder`."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path` in the body, then remove it. Raises Taken at once when another process holds it.

    On a file system without locks (some network mounts) this process goes on unprotected.
    """
    file = _take(path)
    try:
        yield
    finally:
        if file is not None:
            if _is_at(file, path):  # and not another's, in a folder that has replaced this one's
                path.unlink(missing_ok=True)
            os.close(file)


@contextlib.contextmanager
def locked_in_turn(path: Path, what: str) -> Iterator[None]:
    """`locked`, after waiting for its holder. what: names the holder in the message of WaitedTooLong."""
    deadline = time.monotonic() + LONGEST_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path))
                break
            except Taken as error:
                if time.monotonic() > deadline:
                    raise WaitedTooLong(
                        f"timed out after {LONGEST_S:g} s waiting for {what} ({error}) to end; see {path}"
                    ) from error
            time.sleep(0.2)
        yield


@contextlib.contextmanager
def handed_on(path: Path) -> Iterator[tuple[int, ...]]:
    """Take the lock at `path` for a process that the body starts with `pass_fds` of what is yielded: it holds the lock
    until it ends, even if this process dies at once. Raises Taken.

    On a file system without locks there is nothing to pass on.
    """
    file = _take(path)
    try:
        yield () if file is None else (file,)
    finally:
        if file is not None:
            os.close(file)  # which frees it only where no process has been started


def holder(path: Path) -> str | None:
    """Who holds the lock at `path`: "process 71 on host-3, thinkless train since 2026-11-29 21:40:07"; None when it is
    free."""
    return _looked_at(path) or None


def process_on(holder: str) -> tuple[int, str] | None:
    """The process and its host, of what `holder` says; None: of a lock file that was written over."""
    found = re.match(r"process (\d+) on ([^\s,]+)", holder)
    return (int(found[1]), found[2]) if found else None


def left_behind(path: Path) -> bool:
    """Whether the lock file is there and nobody holds it: its holder was killed."""
    return _looked_at(path) == ""


def _looked_at(path: Path) -> str | None:
    """The lock's holder; "": nobody holds it; None: there is no lock file, or the file system has no locks."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        who = os.read(file, TEXT).decode(errors="replace")
        return (who or "another process") if error.errno in HELD else None
    finally:
        os.close(file)
    return ""


def _take(path: Path) -> int | None:
    looked_at = False
    while True:
        try:
            file = _open_locked(path)
        except Taken:
            if looked_at:
                raise
            looked_at = True  # perhaps only by `holder`, for a moment
            time.sleep(0.05)
            continue
        if file is None:
            return None
        if _is_at(file, path):
            os.truncate(file, 0)
            os.write(file, _myself().encode()[:TEXT])
            return file
        os.close(file)  # its holder was just letting go of it, and took the file away


def _myself() -> str:
    """This process, with its command's name: arguments may hold secrets."""
    program, *words = sys.argv or [""]
    ours = os.path.basename(program) in ("thinkless", "__main__.py")
    command = " ".join(["thinkless", *words[:1]]) if ours else os.path.basename(program)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()}, {command} since {since}"


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _open_locked(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except IsADirectoryError:
        raise RunError(f"{path} must be a lock file and is a folder: remove it") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        who = os.read(file, TEXT).decode(errors="replace")
        os.close(file)
        if error.errno in HELD:
            raise Taken(who or "another process") from None
        return None
    return file
