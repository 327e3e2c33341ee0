"""What can happen to a file, by a seed."""

from __future__ import annotations

import random
import re
from pathlib import Path

KINDS = ("flip", "truncate", "empty", "zeros", "delete", "folder", "utf8", "huge")


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Flip a bit, cut the end off, empty it, fill it or its second half with zeros, delete it, put a folder in its
    place, write half of a UTF-8 character somewhere, make one of its numbers huge."""
    data = path.read_bytes()
    at = rng.randrange(len(data)) if data else 0
    if kind in ("delete", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    numbers = [*re.finditer(rb"\d+", data)]
    number = rng.choice(numbers) if numbers else None
    path.write_bytes(
        {
            "flip": lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"\1",
            "truncate": lambda: data[:at],
            "empty": lambda: b"",
            "zeros": lambda: data[: rng.choice((0, len(data) // 2))].ljust(len(data), b"\0"),
            "utf8": lambda: data[:at] + b"\xc3" + data[at:],
            "huge": lambda: data[: number.start()] + b"9" * 5000 + data[number.end() :] if number else b"9" * 5000,
        }[kind]()
    )
