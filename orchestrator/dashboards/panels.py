"""The three dashboards: which figures, in which rows; units and descriptions are the catalogue's.

In: the catalogue. Out: `DASHBOARDS`. Must not know: JSON, files.

Throughput begins with the question that decides what to change: who waits? Learning shows what the policy does,
Health what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.dashboards.grafana import Dashboard, Panel, Query, Row
from orchestrator.dashboards.promql import by, entry_of, or_constant, series

RUN, WORKER = 'run=~"$run"', 'run=~"$run",worker=~"$worker"'
UNITS = {  # of the catalogue -> Grafana's
    "share": "percentunit",
    "s": "s",
    "GiB": "gbytes",  # binary
    "B": "bytes",  # binary
    "tokens/s": "suffix: tokens/s",
    "answers/s": "suffix: answers/s",
    "TFLOP/s": "suffix: TFLOP/s",
    "nats": "suffix: nats",
}
RATES = {"B": "binBps", "s": "percentunit", "tokens": "suffix: tokens/s", "answers": "suffix: answers/s"}
NUMBERED = ("level", "worker")  # labels whose values say little alone
ALERTS = 'ALERTS{alertname=~"Thinkless.*",alertstate="firing",run=~"$run"}'


def curves(title: str, *curves: str, **how: Any) -> Panel:
    """Gauges as they are. curves: keys of the catalogue, each with a name if wanted: "queue/depth:requested"."""
    return _panel(title, curves, "", UNITS, lambda of, labels: by("max", of, labels), how)


def rates(title: str, *curves: str, **how: Any) -> Panel:
    """Counters per second over $window."""
    return _panel(
        title, curves, "Per second.", RATES, lambda of, labels: by("sum", f"rate({of}[$window])", labels), how
    )


def totals(title: str, *curves: str, **how: Any) -> Panel:
    """Counters since training began; 0 where there was nothing to count."""

    def write(of: str, labels: Sequence[str]) -> str:
        return or_constant(by("sum", of, labels), 0, RUN)

    return _panel(title, curves, "Since training began.", {}, write, how)


def _panel(
    title: str,
    curves: Sequence[str],
    opening: str,
    units: Mapping[str, str],
    write: Callable[[str, Sequence[str]], str],
    how: Mapping[str, Any],
) -> Panel:
    """write: a selector and the labels to keep -> PromQL."""
    queries, help = [], [opening] if opening else []
    for key, _, name in (one.partition(":") for one in curves):
        entry, _ = entry_of(key)
        labels = entry.labels if key == entry.key else ()
        of = series(key, WORKER if "worker" in labels else RUN)
        queries.append(Query(write(of, labels), _legend(labels, name)))
        help.append(f"{name}: {entry.help}" if name else entry.help)
    first, _ = entry_of(curves[0].partition(":")[0])
    return Panel(title, "\n".join(help), units.get(first.unit, "short"), tuple(queries), **how)


def quantiles(title: str, key: str, **how: Any) -> Panel:
    """Median, 95th and 99th percentile of a histogram over $window."""
    entry, _ = entry_of(key)
    buckets = by("sum", f"rate({series(key, RUN, '_bucket')}[$window])", [*entry.labels, "le"])
    queries = tuple(
        Query(f"histogram_quantile({q}, {buckets})", _legend(entry.labels, f"p{100 * q:g}")) for q in (0.5, 0.95, 0.99)
    )
    about = f"{entry.help} Median, 95th and 99th percentile."
    return Panel(title, about, UNITS.get(entry.unit, "short"), queries, **how)


def _legend(labels: Sequence[str], name: str = "") -> str:
    """Example: (["level"], "") -> "{{run}} level {{level}}"."""
    shown = [f"{label} {{{{{label}}}}}" if label in NUMBERED else f"{{{{{label}}}}}" for label in labels]
    return " ".join(["{{run}}", *shown, *([name] if name else [])])


_idle_entry, _ = entry_of("rollout/idle_seconds/{reason}/worker/{worker}")
IDLE = Panel(
    "Why samplers stand idle",
    f"Share of a worker's time, mean over the workers. {_idle_entry.help}",
    "percentunit",
    (
        Query(
            by("avg", by("sum", f"rate({series(_idle_entry.key, WORKER)}[$window])", ("reason", "worker")), ["reason"]),
            _legend(("reason",)),
        ),
    ),
    stacked=True,
)
FIRING = Panel(
    "Alerts firing",
    "Alerts of docker/prometheus/alerts.yml; what each means and what to do is in alerts.md beside it.",
    "short",
    (
        Query(f"sum by (run, alertname) ({ALERTS})", "{{run}} {{alertname}}"),
        Query(or_constant(f"sum by (run) ({ALERTS})", 0, RUN), "{{run}} all"),
    ),
    width=24,
)

THROUGHPUT = Dashboard(
    "thinkless-throughput",
    "Thinkless: Throughput",
    "Who waits for whom, and how fast sampling, grading and learning are.",
    (
        Row(
            "Who waits?",
            (
                curves("Samplers busy", "busy/rollout:all", "busy/rollout/worker/{worker}", width=5, high=1.0),
                curves("Learner busy", "busy/learner", width=5, high=1.0),
                curves("Queue", "queue/depth:requested", "queue/ready:sampled", width=4),
                curves(
                    "Staleness", "staleness/max:oldest token", "staleness/mean:mean", "staleness/bound:bound", width=5
                ),
                curves(
                    "Push",
                    "weight_sync/seconds:waited",
                    "weight_sync/publish_seconds:sending",
                    "weight_sync/load_seconds:loading",
                    width=5,
                ),
            ),
        ),
        Row(
            "Where the time of a step goes",
            (
                curves(
                    "Waits of a step",
                    "seconds/rollout:answers",
                    "seconds/reward:verdicts",
                    "seconds/learner:learner",
                    "weight_sync/seconds:weights",
                    stacked=True,
                ),
                curves("Step", "seconds/step", width=5),
                IDLE,
                curves("Step against its slower part", "pipeline/step_vs_max", width=3, low=1.0),
            ),
        ),
        Row(
            "Sampling",
            (
                curves("Response tokens per second", "rollout/tokens_per_s:all", "rollout/tokens_per_s/{mode}"),
                curves("By worker", "rollout/tokens_per_s/worker/{worker}"),
                rates("Prompt and response tokens", "rollout/prompt_tokens:prompt", "rollout/response_tokens/{mode}"),
                curves(
                    "Requests in vLLM",
                    "rollout/running/worker/{worker}:running",
                    "rollout/waiting/worker/{worker}:waiting",
                    "rollout/queued/worker/{worker}:not yet given to vLLM",
                ),
                curves(
                    "Key-value cache",
                    "rollout/cache_use/worker/{worker}:mean",
                    "rollout/cache_use_max/worker/{worker}:largest",
                    high=1.0,
                ),
                totals("Preemptions", "rollout/preemptions/worker/{worker}"),
            ),
        ),
        Row(
            "Learner and weights",
            (
                curves("Tokens per second", "learner/tokens_per_s:all ranks", "learner/tokens_per_s_rank:a rank"),
                curves("FLOPs utilization", "learner/mfu:MFU", "learner/hfu:HFU", width=5, high=1.0),
                curves("FLOPs", "learner/tflops", width=3),
                curves("Packing", "learner/padding:padding", "learner/fill:fill", width=4, high=1.0),
                curves("Imbalance of ranks", "learner/imbalance", width=4, low=1.0),
                rates("Weights sent", "weight_sync/bytes"),
                quantiles("Staleness of an answer", "staleness/answers"),
            ),
        ),
        Row(
            "Grading",
            (
                curves("Answers per second", "reward/answers_per_s"),
                quantiles("Seconds of an answer", "reward/seconds"),
                curves("Decided by an equal answer's check", "reward/cached:share", width=4, high=1.0),
                curves("Reward actors busy", "busy/reward", width=4, high=1.0),
            ),
        ),
    ),
)

LEARNING = Dashboard(
    "thinkless-learning",
    "Thinkless: Learning",
    "What the policy does: when it thinks, how often it is right, and how it changes.",
    (
        Row(
            "When it thinks",
            (
                curves("Think rate by level", "think_rate/level/{level}", width=10, high=1.0),
                curves("Accuracy by level", "accuracy/level/{level}", width=10, high=1.0),
                curves("Think rate", "think_rate/all", width=4, high=1.0),
            ),
        ),
        Row(
            "Think and short",
            (
                curves("Accuracy by mode", "accuracy/{mode}", "accuracy/all:all", high=1.0),
                curves("Tokens by mode", "tokens/{mode}", "tokens/mean:all"),
                quantiles("Tokens of an answer", "answer_tokens/{mode}"),
                rates("Answers by mode", "answers/{mode}", stacked=True),
                curves("Share of each mode, of more than two", "mode_rate/{mode}", high=1.0),
                curves(
                    "Format",
                    "no_mode:no control token",
                    "think_in_short:think token in a short answer",
                    "truncated:cut off",
                    high=1.0,
                ),
                curves("Length", "tokens/p50:median", "tokens/p95:p95", "tokens/max:longest"),
            ),
        ),
        Row(
            "Reward and validation",
            (
                curves("Reward", "reward/mean:training", "validation/reward:validation", low=None),
                curves("Validation", "validation/accuracy:accuracy", "validation/think_rate:think rate", high=1.0),
                curves("Tokens of a validation's answer", "validation/tokens"),
                curves("Validation: think rate by level", "validation/think_rate/level/{level}", high=1.0),
                curves("Validation: accuracy by level", "validation/accuracy/level/{level}", high=1.0),
            ),
        ),
        Row(
            "Groups",
            (
                curves("Groups without a gradient", "groups/dropped_share", high=1.0),
                totals(
                    "Dynamic sampling",
                    "dynamic_sampling/groups:requested",
                    "dynamic_sampling/thrown:left out",
                    "dynamic_sampling/given_up:answers aborted",
                ),
                curves("Answers of several versions", "versions/mixed", high=1.0),
            ),
        ),
        Row(
            "The update",
            (
                curves("Entropy", "entropy:tokens", "entropy/control:control token"),
                curves("KL to the reference", "kl"),
                curves(
                    "Mismatch of sampler and learner",
                    "mismatch/kl:KL",
                    "mismatch/mean_abs:mean",
                    "mismatch/max_abs:largest",
                    log=True,
                    low=None,
                ),
                curves(
                    "Loss",
                    "loss/total:all",
                    "loss/control:control",
                    "loss/response:response",
                    "loss/kl:KL",
                    "loss/{mode}",
                    low=None,
                ),
                curves(
                    "Gradient norm",
                    "grad_norm:all",
                    "grad_norm/control:at control tokens",
                    "grad_norm/response:at other tokens",
                ),
                curves(
                    "Clipped tokens",
                    "clip_fraction:all",
                    "clip/high:upper bound",
                    "clip/low:lower bound",
                    "clip/dual:dual clip",
                    "ratio_outside:ratio outside 0.9 to 1.1",
                ),
                curves("Importance weights", "importance/mean:mean", "importance/max:largest", log=True, low=None),
                curves("Capped importance weights", "importance/capped"),
                curves("Learning rate", "lr"),
            ),
        ),
    ),
)

HEALTH = Dashboard(
    "thinkless-health",
    "Thinkless: Health",
    "What goes wrong: answers without a verdict, workers that die, memory and disk.",
    (
        Row("Alerts", (FIRING,)),
        Row(
            "Outcomes",
            (
                rates("Answers by outcome", "reward/answers/{outcome}", stacked=True),
                totals("Without a verdict", "unjudged/{outcome}"),
                totals("Timed out, given by several siblings", "reward/repeated_timeouts"),
                quantiles("Seconds of grading", "reward/seconds"),
            ),
        ),
        Row(
            "Faults",
            (
                totals("Restarts of rollout workers", "restarts/worker/{worker}"),
                totals("Restarts of reward actors", "restarts/reward/{worker}"),
                totals("Restarts of the learner", "restarts/learner"),
                totals("Skipped updates", "skipped_updates:not finite", "no_op:nothing to learn"),
                totals("Failures of trackers", "tracking/failures/{tracker}"),
            ),
        ),
        Row(
            "Memory and disk",
            (
                curves("Host memory", "memory/host_gib:the run", "memory/available_gib:free"),
                curves("Learner rank, peak by phase", "learner/memory_gib/{phase}"),
                curves("Rollout workers", "rollout/memory_gib/worker/{worker}"),
                curves("Disk left", "disk/free_gib"),
                curves("Seconds spent on figures", "tracking/seconds:the step", "tracking/cpu_seconds:CPU"),
                curves("Steps", "step"),
            ),
        ),
    ),
)

DASHBOARDS = {"throughput": THROUGHPUT, "learning": LEARNING, "health": HEALTH}
RUN_VALUES = f"label_values({series('step')}, run)"
WORKER_VALUES = f"label_values({series('rollout/tokens_per_s/worker/{worker}', RUN)}, worker)"
LINKS = (  # pages: what `thinkless watch` serves
    ("Ray", "${ray}"),
    ("Live page", "${pages}/#runs=${run:csv}"),
    ("Report", "${pages}/report?run=${run:text}"),
)
