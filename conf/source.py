"""What sections of the configuration have in common that read rows (see `conf.schema`).

In: nothing. Out: a dataclass whose comments are the help. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class SourceConf:
    """Where problems or pairs are read from."""

    path: Any = None  # file, folder, glob, address (s3://...), hub data set, or a list of them; null: none
    revision: str | None = None  # hub data set's commit; null: the one pinned in rollout/data/dataset_rows.py
    subset: str | None = None  # hub data set's configuration name; null: the pinned one
    split: str | None = None  # of a hub data set or a folder with several; null: the pinned one, the only one
