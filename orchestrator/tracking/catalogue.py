"""Every figure of a run: its name, unit, kind, labels and meaning, and where it is made.

In: nothing. Out: `METRICS`, and from a key of metrics.jsonl its entry (`find`) and its name on Ray's Prometheus
endpoint (`prometheus_name`). Whatever shows or exports a figure takes it from here. Must not know: runs, files,
libraries.

A name with a variable part is a pattern: `think_rate/level/{level}` stands for think_rate/level/2 and so on, and
`level` is a label of it. In metrics.jsonl a line is a step. A counter holds what the step added (Prometheus: the sum
since training began in this process), a gauge the value of the step, a histogram a list of counts: the answers in each
bucket, whose upper bounds are `buckets` (included), and those above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from orchestrator.tracking.metric import LABELS, MAX_LEVELS, Kind, Metric, Sink
from orchestrator.tracking.metric_list import METRICS

__all__ = [
    "LABELS",
    "MAX_LEVELS",
    "METRICS",
    "Kind",
    "Metric",
    "Sink",
    "export_name",
    "find",
    "key_of",
    "prometheus_name",
]

PREFIX, RAY = "thinkless_", "ray_"  # of names on Ray's Prometheus endpoint; Ray adds the latter

FORMER_EXPORTS = {  # names without a label that dashboards may use; still exported
    "accuracy/think": PREFIX + "accuracy_think",
    "accuracy/short": PREFIX + "accuracy_short",
}


def find(key: str) -> tuple[Metric, dict[str, str]] | None:
    """The entry of a key of metrics.jsonl and its labels; None: not in the catalogue.

    Example: "think_rate/level/2" -> (METRICS' "think_rate/level/{level}", {"level": "2"}).
    """
    found = _literal().get(key)
    if found is not None:
        return found, {}
    for pattern, metric in _patterns():
        if match := pattern.fullmatch(key):
            return metric, match.groupdict()
    return None


def key_of(metric: Metric, labels: Mapping[str, object]) -> str:
    """The inverse of `find`."""
    return metric.key.format(**labels)


def export_name(metric: Metric) -> str:
    """As given to Ray: from the key without its variable parts, its labels added where another metric has that name.

    Example: "answers/{mode}" -> "thinkless_answers", "think_rate/level/{level}" -> "thinkless_think_rate_by_level".
    """
    name = _bare_name(metric)
    taken = metric.labels and not metric.exported_as and any(_bare_name(o) == name for o in METRICS if o is not metric)
    return name + "".join(f"_by_{label}" for label in metric.labels) if taken else name


def _bare_name(metric: Metric) -> str:
    return PREFIX + (metric.exported_as or re.sub(r"\W", "_", metric.base))


def prometheus_name(metric: Metric) -> str:
    """On Ray's endpoint. A histogram's series are this with _bucket, _sum and _count behind it."""
    return RAY + export_name(metric) + ("_total" if metric.kind is Kind.counter else "")


@cache
def _literal() -> dict[str, Metric]:
    return {metric.key: metric for metric in METRICS if not metric.labels}


@cache
def _patterns() -> list[tuple[re.Pattern[str], Metric]]:
    return [(_pattern(metric.key), metric) for metric in METRICS if metric.labels]


def _pattern(key: str) -> re.Pattern[str]:
    def group(match: re.Match[str]) -> str:
        label = match[1]
        values = LABELS[label]
        one = "|".join(values) if values else r"\d+" if label == "worker" else ".+"
        return f"(?P<{label}>{one})"

    return re.compile(re.sub(r"{(\w+)}", group, key))
