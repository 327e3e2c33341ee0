"""What sections of the configuration have in common that read rows or generate them (see `conf.schema`).

In: nothing. Out: dataclasses whose comments are the help, and the check of generated tasks. Must not know: Hydra,
files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.choices import Task
from conf.errors import BadConfig
from conf.ranges import PATH, number, text


@dataclass
class SourceConf:
    """Where problems or pairs are read from."""

    path: Any = text(None, PATH)  # file, folder, glob, address (s3://...), hub data set, or a list of them; null: none
    revision: str | None = None  # hub data set's commit; null: the one pinned in rollout/data/dataset_rows.py
    subset: str | None = None  # hub data set's configuration name; null: the pinned one
    split: str | None = None  # of a hub data set or a folder with several; null: the pinned one, the only one


@dataclass
class ArithmeticConf:
    """The generated task: chains a~b~c of absolute differences of k single digits; k is the level."""

    levels: list[int] = number([2, 3, 7, 8], "[2, 100]")  # terms of a chain, all different
    weights: list[float] = number([0.25, 0.55, 0.1, 0.1], "[0, 1e6]")  # share of each level
    width: int = number(15, "[1, 1000]")  # characters the expression is padded to
    max_digit: int = number(5, "[1, 9]")  # digits are 0..max_digit


@dataclass
class RegisterConf:
    """The generated task with long answers: a shift register that is moved k times; k is the level."""

    levels: list[int] = number([0, 1, 5, 9], "[0, 9]")  # moves, all different
    weights: list[float] = number([0.38, 0.38, 0.12, 0.12], "[0, 1e6]")  # share of each level
    lines: int = number(38, "[2, 52]")  # of every long answer; 8 tokens each


GENERATED = 50_000  # questions at most that a command makes before it begins: seconds


def refuse_many(questions: int, asked: str) -> None:
    """BadConfig for more generated questions than GENERATED; asked: the settings that say how many."""
    if questions > GENERATED:
        raise BadConfig(f"{asked} are {questions} generated questions; there must be at most {GENERATED}")


def check_generated(task: Task, arithmetic: ArithmeticConf, register: RegisterConf, key: str) -> None:
    """Raises BadConfig for a generated task that is impossible; `key`: its section's name."""
    conf, key = (register, f"{key}.register") if task is Task.register else (arithmetic, f"{key}.arithmetic")
    levels, weights = list(conf.levels), list(conf.weights)
    if not len(set(levels)) == len(levels) == len(weights) > 0:
        raise BadConfig(f"{key}.levels={levels} must be different, with one weight each; got {key}.weights={weights}")
    if sum(weights) <= 0:
        raise BadConfig(f"{key}.weights={weights} must not all be 0")
    least, name = (max(levels) + 1, "lines") if task is Task.register else (2 * max(levels) - 1, "width")
    if getattr(conf, name) < least:
        raise BadConfig(f"{key}.{name}={getattr(conf, name)} must be at least {least} to hold level {max(levels)}")
