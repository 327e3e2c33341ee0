"""A run's figures on Ray's Prometheus endpoint, under the names of the catalogue.

In: lines of metrics.jsonl, values of histograms. Out: counters, gauges and histograms of ray.util.metrics. Must not
know: how figures come about.

Ray's agent reports every ten seconds and drops a gauge that was not set in the last two reports; a step may take a
fraction of a second, or minutes. So figures are gathered, and a thread hands them to Ray every two seconds, gauges
again and again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Totals
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from orchestrator.tracking.catalogue import FORMER_EXPORTS, MAX_LEVELS, Kind, Metric, Sink, export_name, find
from orchestrator.tracking.sinks.background import THREADS, End

EVERY_S = 2.0  # seconds between two times that figures are handed to Ray

Place = tuple[Any, tuple[tuple[str, str], ...]]  # one of Ray's metrics, and labels


class Prometheus:
    """Its thread runs until `close`."""

    def __init__(self, run: str):
        self.run = run
        self._made: dict[str, Any] = {}  # Ray's metrics, by name
        self._known: dict[str, list[tuple[bool, Place]]] = {}  # by key
        self._levels: set[str] = set()
        self._lock = threading.Lock()  # around what is gathered:
        self._gauges: dict[Place, float] = {}  # the last values
        self._counts = Totals[Place]()  # since they were handed over last
        self._samples: list[tuple[Any, Mapping[str, str], Sequence[float]]] = []  # likewise
        self._due = 0.0  # when they are to be handed over next
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"{THREADS}gauges", daemon=True)
        self._thread.start()

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """Export what the catalogue has of a line; figures that are None keep their last value."""
        with self._lock:
            for key, value in line.items():
                if value is None:
                    continue
                for counted, place in self._places(key):
                    if counted:
                        self._counts[place] += value
                    else:
                        self._gauges[place] = float(value)
            for key, many in values.items():
                if (found := find(key)) is not None:
                    self._samples.append((self._of(found[0]), found[1], many))
            if time.monotonic() >= self._due:
                self._hand_over()

    def close(self, end: End | None = None) -> None:
        self._closed.set()
        self._thread.join()
        self._hand_over()

    def _keep(self) -> None:
        while not self._closed.wait(EVERY_S):
            with self._lock:
                self._hand_over()

    def _hand_over(self) -> None:
        for (gauge, labels), value in self._gauges.items():
            gauge.set(value, dict(labels))
        for (counter, labels), value in self._counts.items():
            if value > 0:  # Ray refuses to add nothing
                counter.inc(float(value), dict(labels))
        for histogram, named, many in self._samples:
            for value in many:
                histogram.observe(float(value), named)
        self._counts.clear()
        self._samples.clear()
        self._due = time.monotonic() + EVERY_S

    def _places(self, key: str) -> list[tuple[bool, Place]]:
        """Where a figure goes: to counters (True) or gauges."""
        if key not in self._known:
            self._known[key] = places = []
            found = find(key)
            if found is not None and Sink.prometheus in found[0].sinks and self._bounded(found[1]):
                metric, labels = found
                places.append((metric.kind is Kind.counter, (self._of(metric), tuple(labels.items()))))
                if key in FORMER_EXPORTS:
                    places.append((False, (self._gauge(FORMER_EXPORTS[key], metric.help, ()), ())))
        return self._known[key]

    def _bounded(self, labels: Mapping[str, str]) -> bool:
        """Whether the level, if there is one, is among the first MAX_LEVELS."""
        level = labels.get("level")
        if level is None or level in self._levels:
            return True
        if len(self._levels) >= MAX_LEVELS:
            return False
        self._levels.add(level)
        return True

    def _of(self, metric: Metric) -> Any:
        name, tags = export_name(metric), ("run", *metric.labels)
        if metric.kind is Kind.gauge:
            return self._gauge(name, metric.help, metric.labels)
        if name not in self._made:
            if metric.kind is Kind.counter:
                made: Any = Counter(name, description=metric.help, tag_keys=tags)
            else:
                # Ray refuses a boundary of 0 or below; a bucket's upper bound is included
                made = Histogram(name, description=metric.help, boundaries=list(metric.buckets), tag_keys=tags)
            made.set_default_tags({"run": self.run})
            self._made[name] = made
        return self._made[name]

    def _gauge(self, name: str, about: str, labels: Sequence[str]) -> Any:
        if name not in self._made:
            gauge = Gauge(name, description=about, tag_keys=("run", *labels))
            gauge.set_default_tags({"run": self.run})
            self._made[name] = gauge
        return self._made[name]
