"""Every figure of a run: its name, unit, kind, labels and meaning, and where it is made.

In: nothing. Out: `METRICS`, and from a key of metrics.jsonl its entry (`find`) and its name on Ray's Prometheus
endpoint (`prometheus_name`). Whatever shows or exports a figure takes it from here. Must not know: runs, files,
libraries.

A name with a variable part is a pattern: `think_rate/level/{level}` stands for think_rate/level/2 and so on, and
`level` is a label of it. In metrics.jsonl a line is a step; a counter holds what the step added (on Prometheus: the sum
since this process began), a gauge the step's value. Histograms, with upper bounds of buckets, are not in metrics.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from orchestrator.tracking.metric import LABELS, MAX_LEVELS, Kind, Metric, Sink
from orchestrator.tracking.metric_list import METRICS, TIMELINE, WARM_UP, WORKERS

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
    "repeatable",
]

PREFIX, RAY = "thinkless_", "ray_"  # of names on Ray's Prometheus endpoint; Ray adds the latter

OF_TIMES = frozenset({"queue/ready", "learner/mfu", "learner/hfu"})  # depend on them without a unit that says so
OF_DISK = "tracking/failures/{tracker}"

FORMER_EXPORTS = {  # names without a label that dashboards may use; still exported
    "accuracy/think": PREFIX + "accuracy_think",
    "accuracy/short": PREFIX + "accuracy_short",
    "loss/think": PREFIX + "loss_think",
    "loss/short": PREFIX + "loss_short",
}


WARM_UP_FILES = (
    "A warm-up writes lines of its own, in its folder of the cache; `train` copies them to the run folder. With",
    "`warmup.evaluate_every` ([data.md](data.md)) there is a line in the second file for each evaluation, and the last",
    "is in `warmup.json` too.",
)
TRACKERS = (
    "## Trackers",
    "",
    "`tracker.tensorboard=true` writes event files to `tensorboard/` of the run folder; `tracker.wandb=PROJECT` goes",
    "to Weights & Biases (with `WANDB_MODE=offline` in the environment: to the run folder, for `wandb sync`);",
    "`tracker.mlflow=URI` goes to an MLflow store. `pip install 'thinkless[trackers]'` installs their packages. Each",
    "runs in a thread of its own: one that fails is named once, counted in `tracking/failures/{tracker}` and tried",
    "again every five minutes, and training goes on. `metrics.jsonl` has the lines that did not reach it. MLflow and",
    "Weights & Biases are told how a run ended: a failed or interrupted one does not count as finished there.",
    "",
    "The same counter has what else of tracking failed, none of which ends a run: `files` (lines of `metrics.jsonl`,",
    "samples and the like that the disk did not take; they are lost, and no file has a torn line), `timeline`",
    "(`timeline.json`, and calls to actors for their spans), `workers` (calls to rollout workers for their figures)",
    "and `console`. A checkpoint that cannot be written does end a run.",
)


@lru_cache(4096)  # a run's keys are the same at every step
def find(key: str) -> tuple[Metric, Mapping[str, str]] | None:
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


def repeatable(key: str) -> bool:
    """Whether a run on another day has the same figure: it depends on no time, no other process, no worker's load, no
    disk.

    Raises KeyError for one that is not in the catalogue.
    """
    found = find(key)
    if found is None:
        raise KeyError(f"{key} is not in the catalogue")
    unit, of_times = found[0].unit, found[0].key in OF_TIMES
    of_machine = unit in ("s", "GiB", "TFLOP/s") or unit.endswith("/s") or of_times or found[0].key == OF_DISK
    return not of_machine and found[0].made_by not in (TIMELINE, WORKERS)


def key_of(metric: Metric, labels: Mapping[str, object]) -> str:
    """The inverse of `find`."""
    return metric.key.format(**labels)


@cache
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
        one = "|".join(values) if values else {"worker": r"\d+", "mode": r"[a-z]\w*"}.get(label, ".+")
        return f"(?P<{label}>{one})"

    return re.compile(re.sub(r"{(\w+)}", group, key))


def page() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Every figure of a run, as in `metrics.jsonl` of the run folder and on Ray's Prometheus endpoint. This page is",
        "generated by `python -m orchestrator.tracking.catalogue > docs/metrics.md` from",
        "`orchestrator/tracking/metric_list.py`. `{level}` and the like are variable parts of a name, and labels on",
        "Prometheus, where each series also has the label `run`. A counter holds in `metrics.jsonl` what the step",
        "added, on Prometheus the sum since the process began. A share is from 0 to 1.",
        "",
        "Histograms are not in `metrics.jsonl`, where every figure is a number, so that a line is a row of a table to",
        "whatever reads it. What the report and the live page show of these distributions is there as numbers: median,",
        "95th percentile and maximum of answer lengths (`tokens/*`, the mean by mode) and of grading seconds",
        "(`reward/seconds/*`), mean and maximum of staleness. Buckets go to Prometheus, TensorBoard and Weights &",
        "Biases, which have a kind for them; single answers with their lengths are in `samples.jsonl` (a few of every",
        "step) and in recorded steps (`run.record`, all of them).",
        "",
        "The last key of every line, `crc32`, is no figure but the CRC-32 of the line's bytes without it",
        "(`orchestrator/base/line.py`): whatever of the project reads lines leaves out those that are not as they were",
        "written, and says how many. To read a file without it: `jq 'del(.crc32)'`, `frame.drop(columns=\"crc32\")`.",
        "",
        "| name | kind | unit | meaning | on Prometheus | made by |",
        "|---|---|---|---|---|---|",
    ]
    for one in METRICS:
        exported = f"`{prometheus_name(one)}`" if Sink.prometheus in one.sinks else ""
        lines.append(f"| `{one.key}` | {one.kind.value} | {one.unit} | {one.help} | {exported} | `{one.made_by}` |")
    lines += ["", "## Warm-up", "", *WARM_UP_FILES]
    for file, metrics in WARM_UP.items():
        lines += ["", f"`{file}`:", "", "| name | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{one.key}` | {one.unit} | {one.help} |" for one in metrics]
    known = [f"`{label}`: {', '.join(values)}" for label, values in LABELS.items() if values]
    return "\n".join([*lines, "", f"Labels with fixed values: {'; '.join(known)}.", "", *TRACKERS, ""])


if __name__ == "__main__":
    print(page(), end="")
