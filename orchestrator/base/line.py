"""A line of JSON that ends with a checksum of itself, so that one that was damaged is noticed.

In: objects. Out: lines, and the same objects back. Must not know: files, what the objects mean.

The checksum is one more key, the last: `crc32`, a number, so that a line stays a row of numbers to whatever else reads
it. It is zlib's CRC-32 of the line's bytes without that key. Lines without it, of earlier versions, pass.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

CHECK = b', "crc32": '  # behind it: a number


def written(record: Mapping[str, Any], ensure_ascii: bool = True) -> bytes:
    """The line of an object that has a key, with its end."""
    text = json.dumps(record, ensure_ascii=ensure_ascii).encode("utf-8", "replace")
    return text[:-1] + CHECK + b"%d}\n" % zlib.crc32(text)


def read(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises ValueError when it is none, or not as it was written."""
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    check = record.pop("crc32", None)
    if check is None:
        _, last = next(reversed(record.items()), ("", None))
        damaged = type(last) is int and last == zlib.crc32(line.rpartition(b', "')[0] + b"}")  # its key is damaged
    else:
        damaged = check != zlib.crc32(line.rpartition(CHECK)[0] + b"}")
    if damaged:
        raise ValueError("it is not as it was written")
    return record
