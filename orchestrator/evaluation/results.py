"""All figures of an evaluation, from its answers.

In: answers, the problems' levels, the levels' weights. Out: plain objects, as evaluation.json holds them.
Must not know: files, how figures are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from conf.schema import EvaluateConf
from orchestrator.evaluation.answers import FREE, Answer, Grid, grid, ways_of
from orchestrator.evaluation.dial import calibration, trace
from orchestrator.evaluation.routing import routing
from orchestrator.evaluation.scores import scores
from rollout.mode import MODES, Mode

FORMAT = 2  # of evaluation.json


def grids(
    answers: Iterable[Answer],
    levels: Mapping[str, str],
    samples: int,
    weights: Mapping[str, float],
    modes: Sequence[Mode] = MODES,
    whole: bool = True,
) -> dict[str, Grid]:
    """{way: its answers}. levels: {uid: level} of the problems, in order; weights: each level's share of the mix;
    whole: see `grid`."""
    counts = Counter(levels.values())
    each = np.array([weights[level] / counts[level] for level in levels.values()])
    by_way: dict[str, list[Answer]] = {way: [] for way in ways_of(modes)}
    for one in answers:
        by_way[one.way].append(one)
    return {way: grid(those, [*levels], samples, each, modes, whole) for way, those in by_way.items()}


def results(ways: Mapping[str, Grid], levels: Mapping[str, str], conf: EvaluateConf) -> dict[str, Any]:
    """ways: {way: {all: scores, levels: {level: scores}}}, and where there is something to compute them from (else
    None), routing, dial, calibration; points: the places on the dial's curve that `conf` asks for."""
    of_problem = np.array([*levels.values()])
    names = sorted(set(levels.values()), key=lambda name: (len(name), name))
    by_level = {name: {way: whole.of(of_problem == name) for way, whole in ways.items()} for name in names}
    found: dict[str, Any] = {
        "format": FORMAT,
        "ways": {
            way: {"all": scores(whole), "levels": {name: scores(by_level[name][way]) for name in names}}
            for way, whole in ways.items()
        },
    }
    free, forced = ways[FREE], {way: one for way, one in ways.items() if way != FREE}
    dial = trace(free, forced, conf.temperature)
    points = (
        None
        if dial is None
        else {
            "no_bias": int(np.argmin(np.abs(dial.bias))),
            "tolerated_error": dial.for_error(conf.tolerated_error),
            "token_budget": None if conf.token_budget is None else dial.for_budget(conf.token_budget),
        }
    )
    measured = {
        "routing": routing(free, forced),
        "dial": dial,
        "points": points,
        "calibration": calibration(free, forced),
    }
    return {name: _plain(one) for name, one in {**found, **measured}.items()}


def _plain(value: Any) -> Any:
    """JSON-able: dataclasses as objects, arrays as lists, what is not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
