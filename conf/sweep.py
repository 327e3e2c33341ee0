"""The section `sweep` of the configuration (see `conf.schema`).

In: nothing. Out: a dataclass whose comments are the help. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.choices import Objective, Prune
from conf.ranges import NAME, number, text


@dataclass
class SweepConf:
    """A sweep (--multirun): its folder, what its members are compared by, which of them end early."""

    name: str | None = text(None, NAME)  # its folder under run.root; null: run.name, else sweep-<hash of the overrides>
    objective: Objective | None = None  # null: validation_reward, or reward where evaluate.every is 0
    prune: Prune = Prune.none  # a member that is stopped keeps the value that it had
    prune_after: int = number(20, "[0, 1e7]")  # steps that every member may do
    prune_members: int = number(3, "[1, 1e6]")  # others that must have reached a step before it is compared
