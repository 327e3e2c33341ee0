"""What a sweep found: parameters against outcome.

In: the sweep's state, its members' run folders. Out: `Outcome`, in which members that differ only in their seed are one
group. Must not know: how members were run, how it is shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conf.choices import Objective
from orchestrator.sweeps.objective import DURING, Progress, progress
from orchestrator.sweeps.state import FINISHED, MemberState, SweepState

SEED = "run.seed"
# fmt: off
T_975 = (  # from 1 degree of freedom to 20
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)
# fmt: on


@dataclass(frozen=True)
class Spread:
    """The objective over seeds."""

    count: int
    mean: float
    deviation: float | None  # of a sample; None of a single value
    low: float | None  # 95 % interval of the mean, Student's t; None of a single value
    high: float | None


@dataclass(frozen=True)
class Figures:
    """One member's outcome."""

    run: str
    number: int
    status: str
    parameters: dict[str, str]  # overrides that differ between members, without the seed
    seed: str | None
    objective: float | None
    accuracy: float | None  # of the final evaluation, or else of the last validation
    tokens: float | None  # an answer, likewise
    think_rate: float | None  # likewise
    step: int
    seconds: float
    error: str | None

    @property
    def final(self) -> float | None:
        """The objective, of a member that did all its steps."""
        return self.objective if self.status == FINISHED else None


@dataclass(frozen=True)
class Group:
    """Members that differ only in their seed."""

    parameters: dict[str, str]
    members: tuple[Figures, ...]
    objective: Spread | None  # over those that have finished

    def mean(self, name: str) -> float | None:
        return _mean(getattr(member, name) for member in self.members)


@dataclass(frozen=True)
class Outcome:
    state: SweepState
    swept: tuple[str, ...]  # keys of `parameters`
    members: tuple[Figures, ...]
    groups: tuple[Group, ...]  # the best first, those without an objective last
    best: Figures | None
    curves: dict[str, list[tuple[int, float]]]  # run -> (step, value) of the figure that stands for the objective
    damaged: tuple[str, ...] = ()  # what of the members' files is left out of all this, a line each

    @property
    def front(self) -> tuple[Group, ...]:
        """Groups that no other beats in both accuracy and tokens, by tokens."""
        known = [group for group in self.groups if group.mean("accuracy") is not None and group.mean("tokens")]
        spots = {id(group): (group.mean("tokens") or 0.0, group.mean("accuracy") or 0.0) for group in known}
        kept = [group for group in known if not any(_beats(other, spots[id(group)]) for other in spots.values())]
        return tuple(sorted(kept, key=lambda group: spots[id(group)]))


def outcome(state: SweepState) -> Outcome:
    """Raises nothing for runs that are missing or torn: their figures are None."""
    found = {member.run: progress(state.run_folder(member)) for member in state}
    values = {member.run: settings_of(member.overrides) for member in state}
    keys = dict.fromkeys(key for one in values.values() for key in one)
    swept = tuple(key for key in keys if key != SEED and len({one.get(key) for one in values.values()}) > 1)
    members = tuple(_figures(member, found[member.run], values[member.run], swept) for member in state)
    by_parameters: dict[tuple[tuple[str, str], ...], list[Figures]] = {}
    for member in members:
        by_parameters.setdefault(tuple(member.parameters.items()), []).append(member)
    groups = [
        Group(dict(parameters), tuple(own), spread([value for one in own if (value := one.final) is not None]))
        for parameters, own in by_parameters.items()
    ]
    sign = -1 if state.maximized else 1
    groups.sort(key=lambda group: sign * group.objective.mean if group.objective else math.inf)
    valued = [member for member in members if member.final is not None]
    best = min(valued, key=lambda member: sign * (member.objective or 0.0), default=None)
    key = DURING[Objective(state.objective)]
    curves = {run: one.curve(key) for run, one in found.items()}
    damaged = tuple(f"{run}: {line}" for run, one in found.items() for line in one.damaged)
    return Outcome(state, swept, members, tuple(groups), best, curves, damaged)


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    """Example: ["run.seed=1", "data.path=\\"a b\\""] -> {"run.seed": "1", "data.path": "a b"}"""
    pairs = (one.lstrip("+").partition("=") for one in overrides)
    return {key: value[1:-1] if value[:1] == value[-1:] == '"' and len(value) > 1 else value for key, _, value in pairs}


def spread(values: Sequence[float]) -> Spread | None:
    """Example: [1, 2, 3] -> mean 2, deviation 1, interval from -0.48 to 4.48; None of no values."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(1, mean, None, None, None)
    deviation = statistics.stdev(values)
    half = t_975(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(len(values), mean, deviation, mean - half, mean + half)


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: from a table, beyond it by the Cornish-Fisher expansion (to 1e-4)."""
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z = 1.959964
    second, third = 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + (z**3 + z) / (4 * degrees) + second / (96 * degrees**2) + third / (384 * degrees**3)


def _figures(state: MemberState, found: Progress, values: dict[str, str], swept: Sequence[str]) -> Figures:
    def measured(figure: str) -> float | None:
        value = found.evaluated(figure)
        return found.last(f"validation/{figure}") if value is None else value

    return Figures(
        run=state.run,
        number=state.number,
        status=state.status,
        parameters={key: values.get(key, "–") for key in swept},
        seed=values.get(SEED),
        objective=state.objective,
        accuracy=measured("accuracy"),
        tokens=measured("tokens"),
        think_rate=measured("think_rate"),
        step=found.step,
        seconds=state.seconds,
        error=state.error,
    )


def _beats(other: tuple[float, float], spot: tuple[float, float]) -> bool:
    return other[0] <= spot[0] and other[1] >= spot[1] and other != spot


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
