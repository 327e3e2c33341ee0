"""A run's figures on Ray's Prometheus endpoint, under the names of the catalogue.

In: lines of metrics.jsonl, values of histograms. Out: counters, gauges and histograms of ray.util.metrics. Must not
know: how figures come about.

Ray's agent drops a gauge that was not set for 20 seconds (two of its reports), and a step may take minutes: so a thread
sets all of them again meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from orchestrator.tracking.catalogue import FORMER_EXPORTS, MAX_LEVELS, Kind, Metric, Sink, export_name, find

AGAIN_S = 5.0  # seconds after which gauges are set once more


class Prometheus:
    """Its thread runs until `close`."""

    def __init__(self, run: str):
        self.run = run
        self._made: dict[str, Any] = {}  # by name
        self._levels: set[str] = set()
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}  # of gauges, by name and labels
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gauges", daemon=True)
        self._thread.start()

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        """Export what the catalogue has of a line; figures that are None keep their last value."""
        for key, value in line.items():
            found = find(key)
            if value is None or found is None or Sink.prometheus not in found[0].sinks or not self._bounded(found[1]):
                continue
            metric, labels = found
            if metric.kind is Kind.counter:
                if value > 0:  # Ray refuses to add nothing
                    self._of(metric).inc(float(value), labels)
                continue
            self._set(export_name(metric), metric, labels, float(value))
            if key in FORMER_EXPORTS:
                self._set(FORMER_EXPORTS[key], metric, {}, float(value))
        for key, many in values.items():
            found = find(key)
            if found is not None:
                histogram = self._of(found[0])
                for value in many:
                    histogram.observe(float(value), found[1])

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _set(self, name: str, metric: Metric, labels: Mapping[str, str], value: float) -> None:
        with self._lock:
            self._values[name, tuple(labels.items())] = value
            self._gauge(name, metric.help, tuple(labels)).set(value, dict(labels))

    def _keep(self) -> None:
        while not self._closed.wait(AGAIN_S):
            with self._lock:
                for (name, labels), value in self._values.items():
                    self._made[name].set(value, dict(labels))

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
