"""A run's figures on Ray's Prometheus endpoint, under the names of the catalogue.

In: lines of metrics.jsonl, values of histograms. Out: counters, gauges and histograms of ray.util.metrics. Must not
know: how figures come about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from orchestrator.tracking.catalogue import FORMER_EXPORTS, MAX_LEVELS, Kind, Metric, Sink, export_name, find


class Prometheus:
    def __init__(self, run: str):
        self.run = run
        self._made: dict[str, Any] = {}  # by name
        self._levels: set[str] = set()

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
            self._of(metric).set(float(value), labels)
            if key in FORMER_EXPORTS:
                self._gauge(FORMER_EXPORTS[key], metric.help, ()).set(float(value))
        for key, many in values.items():
            found = find(key)
            if found is not None:
                histogram = self._of(found[0])
                for value in many:
                    histogram.observe(float(value), found[1])

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
