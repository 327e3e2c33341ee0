"""JSON files with a digest of themselves, so that one that was damaged is noticed, whatever became of it.

In: objects. Out: files, and the same objects back. Must not know: what they mean.

The digest is one more key, the last. A file without it, of an earlier version or written by hand, passes as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.files import write_json
from rollout.base.errors import BadInput

DIGEST = "file_sha256"


def write_record(path: Path, value: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> None:
    """default: see `write_json`."""
    write_json(path, {**value, DIGEST: _digest(value, default)}, default)


def read_record(path: Path, remedy: str) -> dict[str, Any]:
    """Raises BadInput for a file that is missing, cannot be read, or is not as it was written. remedy: what to do."""
    if (found := _read(path)) is None:
        raise BadInput(f"{path} is {'damaged' if path.exists() else 'missing'}: {remedy}")
    return found


def readable(path: Path) -> dict[str, Any]:
    """The same; empty where there is nothing that can be read. For what goes on without it."""
    return _read(path) or {}


def damaged(path: Path) -> bool:
    """Whether there is something, and it cannot be read."""
    return path.exists() and _read(path) is None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    digest = found.pop(DIGEST, None)
    if digest is None:
        last = next(reversed(found.values()), None)  # a digest whose key was damaged
        return None if isinstance(last, str) and re.fullmatch("[0-9a-f]{64}", last) else found
    return found if digest == _digest(found, None) else None


def _digest(value: Mapping[str, Any], default: Callable[[Any], Any] | None) -> str:
    return hashlib.sha256(json.dumps(value, default=default).encode()).hexdigest()
