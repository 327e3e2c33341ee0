"""What rules compare: quantities of a run, and conditions between them, as data.

In: training steps' records, the configuration as plain objects. Out: a quantity's value, whether a condition holds.
Must not know: which rules there are, Prometheus (`orchestrator.dashboards` writes the same quantities as queries).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from conf.settings import settings

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Metric:
    """A figure of a step, by its key in metrics.jsonl. missing: its value where a step has none; None: unknown."""

    key: str
    missing: float | None = None


@dataclass(frozen=True)
class Counted:
    """How much a counter grew: its sum over the last steps, one entry of metrics.jsonl each.

    A key with a variable part (`restarts/worker/{worker}`) is the sum over all values of that.
    """

    key: str

    def of(self, record: Mapping[str, Any]) -> list[float]:
        """Its entries in a step's record."""
        keys = _with_variable(self.key, tuple(record)) if "{" in self.key else (self.key,)
        return [float(record[key]) for key in keys if record.get(key) is not None]


@dataclass(frozen=True)
class Least:
    """The smallest of a step's figures whose keys differ in their variable part. Example: `mode_rate/{mode}`."""

    key: str

    def of(self, record: Mapping[str, Any]) -> float | None:
        found = [record[key] for key in _with_variable(self.key, tuple(record)) if record[key] is not None]
        return float(min(found)) if found else None


@lru_cache(4096)
def _with_variable(pattern: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of a record that a key with a variable part stands for; most records have the same."""
    begin, end = pattern.partition("{")[0], pattern.rpartition("}")[2]
    return tuple(key for key in keys if key.startswith(begin) and key.endswith(end))


@dataclass(frozen=True)
class Age:
    """Seconds since a figure that is a time (seconds since the epoch)."""

    key: str


@dataclass(frozen=True)
class Setting:
    """A number of the run's configuration. metric: the key under which it is exported, too."""

    key: str
    metric: str


@dataclass(frozen=True)
class Formula:
    left: Quantity
    sign: Literal["+", "-", "*", "/"]
    right: Quantity


Quantity = Metric | Counted | Least | Age | Setting | Formula | float


@dataclass(frozen=True)
class Condition:
    left: Quantity
    sign: Literal["<", "<=", ">", ">="]
    right: Quantity


@dataclass(frozen=True)
class Seen:
    """What conditions are evaluated on: a training step of a run, and what is around it."""

    record: Mapping[str, Any]  # of one training step
    window: Sequence[Mapping[str, Any]]  # the rule's last steps
    newest: Mapping[str, Any]  # the last record, which may be a validation's
    config: Mapping[str, Any]
    now: float | None

    def value(self, of: Quantity) -> float | None:
        match of:
            case Metric(key, missing):
                found = self.record.get(key)
                return missing if found is None else float(found)
            case Counted():
                known = [value for one in self.window for value in of.of(one)]
                return sum(known) if known else None
            case Least():
                return of.of(self.record)
            case Age(key):
                then = self.newest.get(key)
                return None if then is None or self.now is None else max(0.0, self.now - float(then))
            case Setting(key, _):
                return _setting(self.config, key)
            case Formula(left, sign, right):
                a, b = self.value(left), self.value(right)
                return None if a is None or b is None or (sign == "/" and b == 0) else ARITHMETIC[sign](a, b)
            case _:
                return float(of)

    def meets(self, condition: Condition) -> bool:
        a, b = self.value(condition.left), self.value(condition.right)
        return a is not None and b is not None and COMPARISONS[condition.sign](a, b)


def _setting(config: Mapping[str, Any], key: str) -> float | None:
    at: Any = config
    for part in key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            at = settings()[key].default
            break
        at = at[part]
    return None if at is None else float(at)
