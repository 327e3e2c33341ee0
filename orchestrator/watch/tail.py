"""Files that others append to, read by increments.

In: the path of a file of lines. Out: its new whole lines, and whether it began anew. Must not know: what lines mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 20  # bytes of one read
MARK = 256  # bytes before the place that was read up to, by which a file that was written anew is known


@dataclass(frozen=True, slots=True)
class Lines:
    """What one read found."""

    lines: list[bytes]  # without their line ends
    start: int  # the first one's offset in the file
    anew: bool  # the file was replaced, cut or written again: what was read before is void
    more: bool  # whole lines may be left for the next read


@dataclass(slots=True)
class Tail:
    """Reads on where it stopped. A torn last line waits until it is whole; a file may appear later, shrink, be replaced
    or written again from the beginning (a resumed run drops the steps behind its checkpoint)."""

    path: Path
    offset: int = 0  # of the first byte that is not read yet
    size: int = 0  # of the file, when it was last looked at
    _file: tuple[int, int] = (0, 0)  # device and inode
    _seen: tuple[int, int] = (-1, -1)  # size and modification time, ns
    _mark: bytes = field(default=b"", repr=False)  # the bytes before `offset`

    def read(self, most: int = CHUNK) -> Lines:
        """The next whole lines, of about `most` bytes (a longer line comes whole)."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            anew = self.offset > 0
            self._forget()
            return Lines([], 0, anew, False)
        seen = (found.st_size, found.st_mtime_ns)
        if seen == self._seen and self.offset == self.size:
            return Lines([], self.offset, False, False)
        with self.path.open("rb") as file:
            anew = self._is_another(file.fileno(), found)
            if anew:
                self._forget()
            self._file, self._seen, self.size = (found.st_dev, found.st_ino), seen, found.st_size
            start = self.offset
            file.seek(start)
            data = file.read(most)
            while data and b"\n" not in data and (further := file.read(most)):
                data += further
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            self.offset += len(whole)
            self._mark = (self._mark + whole)[-MARK:]
        return Lines(whole.split(b"\n")[:-1], start, anew, bool(whole) and self.offset < self.size)

    def _is_another(self, file: int, found: os.stat_result) -> bool:
        if not self.offset:
            return False
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self.offset:
            return True
        return os.pread(file, len(self._mark), self.offset - len(self._mark)) != self._mark

    def _forget(self) -> None:
        self.offset, self.size, self._mark, self._seen = 0, 0, b"", (-1, -1)
