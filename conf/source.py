"""What sections of the configuration have in common that read rows or generate them (see `conf.schema`).

In: nothing. Out: dataclasses whose comments are the help. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.ranges import number


@dataclass
class SourceConf:
    """Where problems or pairs are read from."""

    path: Any = None  # file, folder, glob, address (s3://...), hub data set, or a list of them; null: none
    revision: str | None = None  # hub data set's commit; null: the one pinned in rollout/data/dataset_rows.py
    subset: str | None = None  # hub data set's configuration name; null: the pinned one
    split: str | None = None  # of a hub data set or a folder with several; null: the pinned one, the only one


@dataclass
class ArithmeticConf:
    """The generated task: chains a~b~c of absolute differences of k single digits; k is the level."""

    levels: list[int] = number([2, 3, 7, 8], "[2, 500]")  # terms of a chain, all different
    weights: list[float] = number([0.25, 0.55, 0.1, 0.1], "[0, 1e6]")  # share of each level
    width: int = number(15, "[1, 1000]")  # characters the expression is padded to
    max_digit: int = number(5, "[1, 9]")  # digits are 0..max_digit
