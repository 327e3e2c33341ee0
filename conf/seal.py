"""A saved configuration that shows when it is not as it was written.

In: text. Out: the same behind a line with its digest, and back. Must not know: YAML.

A file without that line (by an earlier version, by hand, or whose first line was removed because the rest was changed
on purpose) passes as it is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from conf.errors import BadConfig

SEAL = "# sha256 of the lines below: "


def sealed(text: str) -> str:
    return f"{SEAL}{_digest(text)}\n{text}"


def unsealed(path: Path) -> str:
    """The text of a file, with its first line. Raises BadConfig when it is none, or not as it was written."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadConfig(f"{path} cannot be read ({why}): restore it from a copy") from error
    if not text.strip("\0 \r\n\t"):
        raise BadConfig(f"{path} holds no configuration, nothing at all: restore it from a copy")
    first, _, rest = text.partition("\n")
    if re.match(r"#? ?sha256 of", first) and first != f"{SEAL}{_digest(rest)}":
        raise BadConfig(
            f"{path} is damaged, not as it was written: restore it from a copy (or, if it was changed on purpose, "
            "remove its first line)"
        )
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
