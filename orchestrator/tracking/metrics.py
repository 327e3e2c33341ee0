"""Judged groups and reports -> one flat record per step. No files, no Ray.

In: a judged batch, the learner's report, the driver's spans. Out: a dict of floats (None where there is nothing to
average) under the names that metrics.jsonl, the console, the gauges and the report share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from learner.metrics.report import StepReport
from orchestrator.base.observer import Record
from orchestrator.tracking.utilization import Interval, by_kind
from reward.group import Group, JudgedBatch, repeated_timeouts
from reward.verdict import Outcome, Verdict
from rollout.base.spans import FOR_LEARNER, FOR_TRAJECTORIES, FOR_VERDICTS, FOR_WEIGHTS, Span
from rollout.mode import MODES, Mode
from rollout.trajectory import Finish, Trajectory

FORMER = {"refill/": "dynamic_sampling/", "push/": "weight_sync/"}  # names in the files of older runs

WAITS = {  # kind of the driver's spans -> seconds of a step
    FOR_TRAJECTORIES: "seconds/rollout",
    FOR_VERDICTS: "seconds/reward",
    FOR_LEARNER: "seconds/learner",
    FOR_WEIGHTS: "weight_sync/seconds",
}
PERCENTILES = {"p50": 50, "p95": 95, "max": 100}


def with_current_names(record: dict[str, Any]) -> dict[str, Any]:
    """A record as an older run wrote it."""
    for old, new in FORMER.items():
        record = {new + key[len(old) :] if key.startswith(old) else key: value for key, value in record.items()}
    return record


def mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def describe(pairs: Sequence[tuple[Trajectory, Verdict, float]], modes: Sequence[Mode] = MODES) -> Record:
    """Accuracy, think rate, tokens and rewards of judged trajectories (with their rewards), overall, by mode and by
    level."""
    tokens = [len(t.token_ids) for t, _, _ in pairs]
    correct = [v.correct for _, v, _ in pairs]
    taken = [t.mode for t, _, _ in pairs]
    thinks = [mode is not None and mode.thinks for mode in taken]
    record: Record = {
        "reward/mean": mean(r for _, _, r in pairs),
        "accuracy/all": mean(correct),
        "think_rate/all": mean(thinks),
        "no_mode": mean(mode is None for mode in taken),
        "truncated": mean(t.finish is not Finish.STOP for t, _, _ in pairs),
        "think_in_short": mean(v.think_token for t, v, _ in pairs if t.mode == Mode.SHORT),
        "tokens/mean": mean(tokens),
    }
    for one in reversed(modes):
        if len(modes) > 2:  # with two, the think rate says it
            record[f"mode_rate/{one.name}"] = mean(mode == one for mode in taken)
        record[f"accuracy/{one.name}"] = mean(c for c, mode in zip(correct, taken, strict=True) if mode == one)
        record[f"tokens/{one.name}"] = mean(n for n, mode in zip(tokens, taken, strict=True) if mode == one)
    record |= percentiles("tokens", tokens)
    levels: dict[str, list[int]] = {}  # places in the lists above
    for place, (t, _, _) in enumerate(pairs):
        if t.prompt.level is not None:
            levels.setdefault(t.prompt.level, []).append(place)
    for level in sorted(levels):
        record[f"think_rate/level/{level}"] = mean(thinks[place] for place in levels[level])
        record[f"accuracy/level/{level}"] = mean(correct[place] for place in levels[level])
    return record


def percentiles(name: str, values: Sequence[float]) -> Record:
    """The median, the 95th percentile and the largest; None of no values."""
    found = np.percentile(values, tuple(PERCENTILES.values())).tolist() if values else [None] * len(PERCENTILES)
    return dict(zip((f"{name}/{one}" for one in PERCENTILES), found, strict=True))


def judged(groups: Iterable[Group]) -> list[tuple[Trajectory, Verdict, float]]:
    return [(t, v, float(r)) for g in groups for t, v, r in zip(g.trajectories, g.verdicts, g.rewards, strict=True)]


def outcomes(groups: Sequence[Group], seconds: float | None) -> Record:
    """Counts and shares of all answers by outcome, and how many have no verdict (`unjudged`), of which kind; seconds:
    that grading took."""
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    failed = [verdict for group in groups for verdict in group.failed]
    asked = len(verdicts) + len(failed)
    counts = Counter(verdict.outcome for verdict in (*verdicts, *failed))
    record: Record = {"unjudged": len(failed)}
    for outcome in Outcome:
        record[f"reward/answers/{outcome.value}"] = counts[outcome]
        if outcome.judged:
            record[f"outcome/{outcome.value}"] = counts[outcome] / asked if asked else None
        else:
            record[f"unjudged/{outcome.value}"] = counts[outcome]
    scored = sum(verdict.outcome is Outcome.NO_ANSWER and verdict.failure is not None for verdict in verdicts)
    record["reward/repeated_timeouts"] = scored + sum(len(repeated_timeouts(group.failed)) for group in groups)
    record["reward/cache_hits"] = sum(verdict.cached for verdict in (*verdicts, *failed))
    record["reward/cached"] = mean(verdict.cached for verdict in verdicts)
    record["reward/answers_per_s"] = asked / seconds if seconds else None
    return record


def mode_of(trajectory: Trajectory) -> str:
    return trajectory.mode.name if trajectory.mode else "none"


def sampled(batch: JudgedBatch, modes: Sequence[Mode]) -> Record:
    """Answers and tokens of a step, to be added up; tokens per second by mode and by worker; the queue."""
    trajectories = [trajectory for group in batch.judged for trajectory in group.trajectories]
    answers, tokens = Counter(map(mode_of, trajectories)), Counter[str]()
    for trajectory in trajectories:
        tokens[mode_of(trajectory)] += len(trajectory.token_ids)
    record: Record = {"rollout/prompt_tokens": sum(len(t.prompt.token_ids) for t in trajectories)}
    for mode in (*(mode.name for mode in reversed(modes)), "none"):
        record[f"answers/{mode}"], record[f"rollout/response_tokens/{mode}"] = answers[mode], tokens[mode]
        speed = tokens[mode] / batch.sampling_s if batch.sampling_s else None
        record[f"rollout/tokens_per_s/{mode}"] = speed
    for worker in sorted({worker for worker, _, _ in batch.workers}):
        mine = [(count, seconds) for one, count, seconds in batch.workers if one == worker]
        seconds = sum(seconds for _, seconds in mine)
        speed = sum(count for count, _ in mine) / seconds if seconds else None
        record[f"rollout/tokens_per_s/worker/{worker}"] = speed
    record["queue/depth"], record["queue/ready"], record["staleness/bound"] = batch.queued, batch.ready, batch.bound
    return record


def distributions(batch: JudgedBatch, modes: Sequence[Mode] = MODES) -> dict[str, list[float]]:
    """The values of a step's histograms: tokens of the answers by mode, seconds of grading, staleness."""
    names = (*(mode.name for mode in reversed(modes)), "none")
    values: dict[str, list[float]] = {f"answer_tokens/{name}": [] for name in names}
    for group in batch.judged:
        for t in group.trajectories:
            values[f"answer_tokens/{mode_of(t)}"].append(len(t.token_ids))
    verdicts = [verdict for group in batch.judged for verdict in (*group.verdicts, *group.failed)]
    values["reward/seconds"] = [verdict.seconds for verdict in verdicts]
    learnt = [t for group in batch.learnt for t in group.trajectories]
    values["staleness/answers"] = [batch.step - int(t.versions[0]) for t in learnt]  # the first token is the oldest
    return values


def spread(values: Mapping[str, list[float]]) -> Record:
    """What metrics.jsonl has of these distributions."""
    return percentiles("reward/seconds", values["reward/seconds"]) | {
        "staleness/mean": mean(values["staleness/answers"])
    }


def summarize(
    batch: JudgedBatch,
    report: StepReport | None,
    spans: Iterable[Span],
    window: Interval,
    values: Mapping[str, list[float]],
    modes: Sequence[Mode] = MODES,
) -> Record:
    """The record of one step. Answers are described as they were sampled, those that dynamic sampling dropped included.

    spans: the driver's; window: when the step began and ended, seconds since the epoch; values: `distributions` of the
    batch.
    """
    groups = batch.judged
    pairs = judged(groups)
    record = describe(pairs, modes)
    record["groups/dropped_share"] = mean(not group.informative for group in groups)
    record |= outcomes(groups, batch.grading_s)
    record |= sampled(batch, modes) | spread(values)
    record["staleness/max"] = batch.staleness
    record["versions/mixed"] = mean(bool(t.versions[0] != t.versions[-1]) for t, _, _ in pairs)
    record["dynamic_sampling/rounds"] = batch.rounds
    record["dynamic_sampling/groups"] = batch.asked
    record["dynamic_sampling/thrown"] = len(batch.judged) - len(batch.learnt)
    record["dynamic_sampling/given_up"] = batch.given_up
    record["no_op"] = int(report is None)
    if report is not None:
        record |= learning(report)
    waited = by_kind(spans, [window])
    record["rollout/tokens_per_s"] = batch.tokens / batch.sampling_s if batch.sampling_s else None
    record |= {name: waited.get(kind) for kind, name in WAITS.items()}
    record["seconds/step"] = window[1] - window[0]
    return {key: (None if isinstance(v, float) and not np.isfinite(v) else v) for key, v in record.items()}


def learning(report: StepReport) -> Record:
    """What the update did."""
    record: Record = {
        "loss/total": report.loss,
        "loss/control": report.loss_control,
        "loss/response": report.loss_response,
        "loss/kl": report.loss_kl,
        **{f"loss/{mode}": loss for mode, loss in reversed([*report.loss_by_mode.items()])},
        "entropy": report.entropy,
        "entropy/control": report.entropy_control,
        "learner/tokens": report.tokens,
        "kl": report.kl,
        "ratio_outside": report.ratio_outside,
        "clip_fraction": report.clip_fraction,
        "clip/high": report.clip_high,
        "clip/low": report.clip_low,
        "clip/dual": report.clip_dual,
        "grad_norm": report.grad_norm,
        "grad_norm/control": report.grad_norm_control,
        "grad_norm/response": report.grad_norm_response,
        "lr": report.lr,
        "skipped_updates": report.skipped,
        "mismatch/kl": report.mismatch_kl,
        "mismatch/mean_abs": report.mismatch_mean_abs,
        "mismatch/max_abs": report.mismatch_max_abs,
        "importance/mean": report.importance_mean,
        "importance/max": report.importance_max,
        "importance/capped": report.importance_capped,
        "learner/tokens_per_s": report.tokens / report.seconds if report.seconds else None,
    }
    record |= {f"learner/memory_gib/{phase}": peak for phase, peak in (report.memory or {}).items()}
    if report.efficiency is not None:
        speed = asdict(report.efficiency)
        record["learner/tokens_per_s_rank"] = speed.pop("tokens_per_s")
        record |= {f"learner/{name}": value for name, value in speed.items()}
    return record
