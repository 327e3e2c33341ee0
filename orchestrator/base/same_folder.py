"""A folder that must stay the one that was opened.

In: its path. Out: an error as soon as no folder, or another one, has that path. Must not know: what it holds.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from orchestrator.base.errors import RunError

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class FolderGone(RunError):
    """A run's folder was deleted, moved or replaced while the run was going on."""


class SameFolder:
    """Holds the folder open, so that none that is made later has its number."""

    def __init__(self, path: Path):
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def check(self) -> None:
        """Raises FolderGone. For whoever is about to write into the folder by its path."""
        try:
            if os.path.samestat(os.fstat(self._file), self.path.stat()):
                return
            found = "was replaced by another folder, into which nothing was written"
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            found = "was deleted or moved"
        raise FolderGone(
            f"the folder {self.path} {found}, so the run in it ends here: if it was moved, go on with it at its new "
            "place; else begin again"
        )

    def close(self) -> None:
        os.close(self._file)
