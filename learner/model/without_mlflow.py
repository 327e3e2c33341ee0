"""DeepSpeed's autotuner, which nobody here uses, imports MLflow wherever it is installed: more than a second of CPU
time and 117 MB in every learner rank. MLflow is one of the trackers, and theirs is the driver."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def without_mlflow() -> Iterator[None]:
    """Around what imports DeepSpeed: MLflow, unless it is there already, cannot be imported."""
    modules = cast("dict[str, Any]", sys.modules)
    if "mlflow" in modules:
        yield
        return
    modules["mlflow"] = None
    try:
        yield
    finally:
        del modules["mlflow"]
