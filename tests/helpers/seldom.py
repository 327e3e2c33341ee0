"""Parameters that only `make test-all` takes; `make test` takes the others of their list."""

from __future__ import annotations

from typing import Any

import pytest


def seldom(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.bench)
