"""Which commit of the project is running.

In: the folder of the code, a checkout or what a job was given. Out: its commit, whether it was changed since. Must not
know: runs, Ray.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2]  # a checkout, a job's working directory, or the site-packages of an installation
NOTE = ".thinkless-commit.json"  # in a job's working directory, which has no .git


def commit(source: Path = SOURCE) -> dict[str, Any]:
    """git_commit (40 hexadecimal digits) and dirty (whether tracked files were changed); None where nobody knows."""
    if (source / NOTE).is_file():
        found: dict[str, Any] = json.loads((source / NOTE).read_text())
        return found
    status = _git(source, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": _git(source, "rev-parse", "HEAD"), "dirty": bool(status) if status is not None else None}


def _git(source: Path, *words: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
