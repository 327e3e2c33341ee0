"""What can happen to a file, by a seed."""

from __future__ import annotations

import random
import re
from pathlib import Path

KINDS = ("flip", "truncate", "empty", "zeros", "delete", "folder", "utf8", "huge", "digit", "lost", "twice")


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Flip a bit, cut the end off, empty it, fill it or its second half with zeros, delete it, put a folder in its
    place, write half of a UTF-8 character somewhere, make one of its numbers huge, change a digit, lose a line, have
    one twice."""
    data = path.read_bytes()
    at = rng.randrange(len(data)) if data else 0
    if kind in ("delete", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    numbers, digits = ([*re.finditer(what, data)] for what in (rb"\d+", rb"\d"))
    number, digit = (rng.choice(found) if found else None for found in (numbers, digits))
    lines = data.splitlines(keepends=True)
    line = rng.randrange(len(lines)) if lines else 0
    path.write_bytes(
        {
            "flip": lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"\1",
            "truncate": lambda: data[:at],
            "empty": lambda: b"",
            "zeros": lambda: data[: rng.choice((0, len(data) // 2))].ljust(len(data), b"\0"),
            "utf8": lambda: data[:at] + b"\xc3" + data[at:],
            "huge": lambda: data[: number.start()] + b"9" * 5000 + data[number.end() :] if number else b"9" * 5000,
            "digit": lambda: _changed(data, digit.start(), rng) if digit else b"7",
            "lost": lambda: b"".join(lines[:line] + lines[line + 1 :]),
            "twice": lambda: b"".join(lines[: line + 1] + lines[line:]),
        }[kind]()
    )


def _changed(data: bytes, at: int, rng: random.Random) -> bytes:
    """With another digit there."""
    return data[:at] + str((int(data[at : at + 1]) + rng.randint(1, 9)) % 10).encode() + data[at + 1 :]
