"""A run folder's files as one `Run`: complete, torn or still being written.

In: the folder (config.yaml, provenance.json, metrics.jsonl, samples.jsonl, warmup.jsonl, warmup_evaluation.jsonl,
evaluation.json, timeline.json, unjudged.jsonl; all but the first step's figures may be missing). Out: `Run`. Must not
know: how anything is drawn.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from conf.errors import BadConfig
from conf.seal import unsealed
from orchestrator.base.line import read as read_line
from orchestrator.base.record import readable
from orchestrator.report.panels import Point
from orchestrator.tracking.chrome_trace import Recorded
from orchestrator.tracking.chrome_trace import read as read_trace
from orchestrator.tracking.metrics import FORMER, with_current_names

RECENT = 10  # steps whose mean is "lately"
MODEL_NAMES = {"warmup": "Warm-up", "final": "Final"}
RECORDED_GRPO = Path(__file__).parent / "grpo_quickstart.jsonl"

BEYOND = re.compile(rb"[eE]\+?\d{3}|\d{300}")  # numbers that may be none to calculate with

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    folder: Path
    name: str
    config: JsonObject
    config_text: str
    provenance: JsonObject
    steps: list[JsonObject]  # by step; one record per step, a validation merged into it
    warmup: list[JsonObject]  # by step, evaluations merged into it
    evaluation: JsonObject
    samples: list[JsonObject]
    grpo: list[JsonObject]  # plain GRPO recorded with the same settings; empty where it does not apply
    timeline: Recorded | None = None
    unjudged: list[JsonObject] = field(default_factory=list)  # the first answers without a verdict, with their cause
    damaged: list[str] = field(default_factory=list)  # see `orchestrator.report.damage`

    def setting(self, key: str, default: Any = None) -> Any:
        """Example: setting("run.steps")."""
        at: Any = self.config
        for part in key.split("."):
            at = at.get(part) if isinstance(at, dict) else None
        return default if at is None else at

    @property
    def modes(self) -> list[str]:
        return mode_names(self.config)

    @property
    def last_step(self) -> int:
        return int(self.steps[-1]["step"]) if self.steps else 0

    def curve(self, key: str) -> list[Point]:
        """One figure over the steps."""
        return curve(self.steps, key)

    @property
    def before(self) -> list[JsonObject]:
        """Answers of the model that training began with."""
        return [sample for sample in self.samples if sample.get("step") == 0]

    @property
    def after(self) -> list[JsonObject]:
        """All other answers."""
        return [sample for sample in self.samples if sample.get("step") != 0]

    def recent(self, key: str) -> float | None:
        """The mean of a figure's last `RECENT` values; None where it has none."""
        known: list[float] = [record[key] for record in self.steps if record.get(key) is not None][-RECENT:]
        return sum(known) / len(known) if known else None

    @property
    def times(self) -> list[float]:
        """When the steps ended, seconds since the epoch, as far as it was recorded."""
        return [record["time"] for record in self.steps if record.get("time") is not None]

    @property
    def wall_seconds(self) -> float | None:
        """From the start of each session to its end, or to its last record when it was cut."""
        sessions = self.provenance.get("sessions")
        if not isinstance(sessions, list) or not sessions:
            sessions = [self.provenance]
        known = [session for session in sessions if isinstance(session, dict)]
        begins = [begin for session in known if (begin := _moment(session.get("started"))) is not None]
        total = 0.0
        for session, begin, following in zip(known, begins, [*begins[1:], math.inf], strict=False):
            last = max((time for time in self.times if begin <= time < following), default=begin)
            total += max(0.0, (_moment(session.get("ended")) or last) - begin)
        return total or None

    @property
    def finished(self) -> bool:
        return bool(self.steps) and self.last_step >= int(self.setting("run.steps", 0))

    @property
    def levels(self) -> list[str]:
        """All levels seen, in order of difficulty (numbers by value, before words)."""
        marker = "/level/"
        seen = {key.partition(marker)[2] for record in self.steps for key in record if marker in key}
        return sorted(seen | {str(level) for level in self.evaluation.get("levels") or ()}, key=by_level)


def mode_names(config: JsonObject) -> list[str]:
    """Of a run's configuration, the longest first; older ones do not name them."""
    model = config.get("model")
    given = model.get("modes") if isinstance(model, dict) else None
    return [str(name) for name in reversed(given if isinstance(given, list) else ["short", "think"])]


def mode_tokens(config: JsonObject) -> dict[str, str]:
    """The control token of each mode, by its name."""
    model = config.get("model")
    given = model if isinstance(model, dict) else {}
    return {name: str(given.get(f"{name}_token") or f"<{name}>") for name in mode_names(config)}


def read_run(folder: Path) -> Run:
    if not folder.is_dir():
        raise FileNotFoundError(f"run folder {folder} does not exist")
    config = read_yaml(folder / "config.yaml") or {}
    return Run(
        folder=folder.absolute(),
        name=folder.resolve().name,
        config=config,
        config_text=_text(folder / "config.yaml"),
        provenance=readable(folder / "provenance.json"),
        steps=merged(records(folder / "metrics.jsonl")),
        warmup=merged(chain(records(folder / "warmup.jsonl"), records(folder / "warmup_evaluation.jsonl"))),
        evaluation=readable(folder / "evaluation.json"),
        samples=list(records(folder / "samples.jsonl")),
        grpo=recorded_grpo(config),
        timeline=read_trace(folder / "timeline.json"),
        unjudged=list(records(folder / "unjudged.jsonl")),
    )


def recorded_grpo(config: Mapping[str, Any]) -> list[JsonObject]:
    """Plain GRPO as it was recorded, for a run with the same settings; empty for any other."""
    settings = read_object(RECORDED_GRPO.with_suffix(".yaml"), yaml.safe_load)
    algorithm = config.get("algorithm")
    loss = algorithm.get("loss") if isinstance(algorithm, dict) else None
    if loss != "degrpo" or not settings or not has_settings(settings, config):
        return []
    return merged(records(RECORDED_GRPO))


def has_settings(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a run's configuration has these settings; those that it lacks did not exist when it was written."""
    for key in settings.keys() & config.keys():
        value, found = settings[key], config[key]
        nested = isinstance(value, dict) and isinstance(found, dict)
        if not (has_settings(value, found) if nested else value == found):
            return False
    return True


def records(path: Path) -> Iterator[JsonObject]:
    """The objects of a .jsonl file. A line that is damaged is left out (`orchestrator.report.damage` says so)."""
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        if (record := object_of(line)) is not None:
            yield record


def object_of(line: bytes) -> JsonObject | None:
    """One line of a .jsonl file under the figures' current names, without numbers that are none; None: it is damaged,
    or no object. Whatever reads a run's lines reads them by this."""
    try:
        record = read_line(line)
    except ValueError:
        return None
    if any(b'"' + name.encode() in line for name in FORMER):
        record = with_current_names(record)
    if b"NaN" in line or b"Infinity" in line or BEYOND.search(line):
        record = {key: _finite(value) for key, value in record.items()}
    return record


def merged(lines: Iterable[JsonObject]) -> list[JsonObject]:
    """One record per step, in order. A resumed run writes again from its checkpoint: what it repeats is replaced."""
    by_step: dict[int, JsonObject] = {}
    newest = -1
    for line in lines:
        if not isinstance(step := line.get("step"), int):
            continue
        if trains(line) and step < newest:
            by_step, newest = {at: record for at, record in by_step.items() if at < step}, step
        by_step[step], newest = by_step.get(step, {}) | line, max(newest, step)
    return [by_step[step] for step in sorted(by_step)]


def trains(line: Mapping[str, Any]) -> bool:
    """Whether a record is a training step's, not a validation's alone."""
    return any(key not in ("step", "time") and not key.startswith(("validation/", "tracking/")) for key in line)


def curve(lines: Iterable[Mapping[str, Any]], key: str) -> list[Point]:
    """One figure over the steps of records; None where one lacks it."""
    return [(line["step"], line.get(key)) for line in lines]


def by_level(level: str) -> tuple[int, float, str]:
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level


def _moment(stamp: Any) -> float | None:
    """Seconds since the epoch of "2026-11-28T14:02:11+0000"."""
    try:
        return datetime.strptime(str(stamp), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, int | float) and not abs(value) < 1e300 else value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_yaml(path: Path) -> JsonObject | None:
    """A run's config.yaml as plain objects; None when it is missing or damaged."""
    try:
        found = yaml.safe_load(unsealed(path))
    except (BadConfig, ValueError, RecursionError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def read_object(path: Path, parse: Callable[[str], Any] = json.loads) -> JsonObject:
    """What the file holds; empty when it is missing, torn or no object."""
    try:
        value = parse(_text(path))
    except (ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
