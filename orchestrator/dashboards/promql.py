"""Metrics of the catalogue, quantities and conditions of rules -> PromQL.

In: keys of metrics.jsonl, `Quantity`, `Condition`. Out: expressions whose result has one series for each run (and for
each label that is asked for). Must not know: panels, files.

Ray adds labels of its own (node, worker process, session), and a resumed run is another process: so every expression
aggregates, gauges by their largest value, counters by their sum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from orchestrator.tracking import catalogue
from orchestrator.tracking.catalogue import Metric as Entry
from orchestrator.tracking.conditions import Age, Condition, Counted, Formula, Least, Metric, Quantity, Setting

ALERT_WINDOW = "1h"  # over which counters are summed in rules


def entry_of(key: str) -> tuple[Entry, Mapping[str, str]]:
    """A key's entry in the catalogue, and its labels; none of them for the entry's own key, with its variable parts.

    Raises KeyError for a key that the catalogue does not have, or does not export to Prometheus.
    """
    own = next((one for one in catalogue.METRICS if one.key == key), None)
    found = (own, {}) if own else catalogue.find(key)
    if found is None or catalogue.Sink.prometheus not in found[0].sinks:
        raise KeyError(key)
    return found


def series(key: str, only: str = "", suffix: str = "", offset: str = "") -> str:
    """A selector. Example: "outcome/correct" -> `ray_thinkless_outcome{outcome="correct"}`.

    only: further matchers; suffix: of a histogram's series, e.g. "_bucket"; offset: e.g. "1h".
    """
    entry, labels = entry_of(key)
    matchers = ",".join([*(f"{name}={json.dumps(value)}" for name, value in labels.items()), *([only] if only else [])])
    braces = f"{{{matchers}}}" if matchers else ""
    return f"{catalogue.prometheus_name(entry)}{suffix}{braces}{f' offset {offset}' if offset else ''}"


def by(aggregation: str, of: str, labels: Sequence[str] = ()) -> str:
    """Example: by("max", "x", ["level"]) -> `max by (run, level) (x)`."""
    return f"{aggregation} by ({', '.join(['run', *labels])}) ({of})"


def query(of: Quantity, only: str = "") -> str:
    """The quantity of each run. only: matchers, e.g. `run="mine"`."""
    match of:
        case Metric(key, missing):
            found = by("max", series(key, only))
            return found if missing is None else or_constant(found, missing, only)
        case Counted(key):  # not increase(): a counter that begins to exist would not have increased
            now, then = (series(key, only, offset=offset) for offset in ("", ALERT_WINDOW))
            added = by("sum", f"{now} - ({then} or 0 * {now})")  # each process by itself: a resumed run's begins at 0
            return or_constant(added, 0, only)  # one that does not exist has counted nothing
        case Least(key):
            return by("min", by("max", series(key, only), [key.partition("{")[2].rstrip("}")]))
        case Age(key):
            return f"(time() - {by('max', series(key, only))})"
        case Setting(_, metric):
            return query(Metric(metric), only)
        case Formula(left, sign, right):
            return f"({query(left, only)} {sign} {query(right, only)})"
        case _:
            return f"{of:g}"


def condition(of: Condition) -> str:
    """The left side of every run for which the condition holds."""
    return f"{query(of.left)} {of.sign} {query(of.right)}"


def or_constant(found: str, value: float, only: str = "") -> str:
    """`found`, and for a run that is there without it, `value`."""
    return f"({found} or on (run) 0 * {by('max', series('step', only))}{f' + {value:g}' if value else ''})"
