"""Programs that tests start and that no Python package holds; .ci/programs.py installs them."""

from __future__ import annotations

import os
import shutil

import pytest


def found(name: str) -> str | None:
    """Its path; None where it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path)


def program(name: str) -> str:
    """Its path; skips the test where it is missing."""
    path = found(name)
    if not path:
        pytest.skip(f"needs {name}: python3 .ci/programs.py installs it")
    return path
