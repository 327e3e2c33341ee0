"""The list of all metrics.

In: nothing. Out: `METRICS`; `WARM_UP`, those of a warm-up's files. Must not know: how they are found, shown and
exported (`catalogue`).
"""

from __future__ import annotations

from orchestrator.tracking.metric import DISTRIBUTIONS, NO_TRACKER, Kind, Metric, Sink

SECONDS = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
TOKENS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
UPDATES = (0.5, 1.5, 2.5, 3.5, 4.5, 6.5, 8.5, 16.5, 32.5, 64.5)  # whole numbers lie between the bounds


def _of(kind: Kind, module: str, *rows: tuple[str, str, str]) -> tuple[Metric, ...]:
    """Metrics of one kind and module; rows: key, unit, help."""
    return tuple(Metric(key, unit, kind, text, module) for key, unit, text in rows)


def _histogram(key: str, unit: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(key, unit, Kind.histogram, text, STEP, buckets, DISTRIBUTIONS)


def _named(name: str, key: str, unit: str, text: str, module: str) -> Metric:
    """A gauge whose name on Prometheus does not follow from its key."""
    return Metric(key, unit, Kind.gauge, text, module, exported_as=name)


STEP = "orchestrator.tracking.metrics"
TRACKER = "orchestrator.tracking.tracker"
TIMELINE = "orchestrator.tracking.utilization"
WORKERS = "orchestrator.tracking.workers"
VALIDATION = "orchestrator.training.evaluation"

METRICS: tuple[Metric, ...] = (
    Metric("step", "steps", Kind.gauge, "Training steps that are finished.", TRACKER),
    Metric(
        "time", "s", Kind.gauge, "When the line was written, since the epoch.", TRACKER,
        sinks=NO_TRACKER, exported_as="last_record_time",
    ),
    # ---- answers
    _named("reward", "reward/mean", "reward", "Mean reward of all answers.", STEP),
    _named("accuracy", "accuracy/all", "share", "Share of right answers.", STEP),
    _named("think_rate", "think_rate/all", "share", "Share of answers that begin by thinking.", STEP),
    _named("tokens_per_answer", "tokens/mean", "tokens", "Mean tokens of an answer.", STEP),
    *_of(
        Kind.gauge,
        STEP,
        ("accuracy/{mode}", "share", "Share of right answers in a mode."),
        ("mode_rate/{mode}", "share", "Share of answers in a mode, where there are more than two modes."),
        ("accuracy/level/{level}", "share", "Share of right answers at a level."),
        ("think_rate/level/{level}", "share", "Share of answers at a level that begin by thinking."),
        ("no_mode", "share", "Share of answers whose first token is no control token."),
        ("truncated", "share", "Share of answers that no end token ended."),
        ("think_in_short", "share", "Share of short answers that hold a think token."),
        ("tokens/p50", "tokens", "Median tokens of an answer."),
        ("tokens/p95", "tokens", "Tokens of an answer, 95th percentile."),
        ("tokens/max", "tokens", "Tokens of the longest answer."),
    ),
    _named("tokens_per_answer_by_mode", "tokens/{mode}", "tokens", "Mean tokens of an answer in a mode.", STEP),
    *_of(Kind.counter, STEP, ("answers/{mode}", "answers", "Answers in a mode.")),
    _histogram("answer_tokens/{mode}", "tokens", "Tokens of the answers in a mode.", TOKENS),
    # ---- grading
    *_of(
        Kind.counter,
        STEP,
        ("reward/answers/{outcome}", "answers", "Answers by outcome of grading."),
        ("reward/cache_hits", "answers", "Answers that the check of an equal one decided."),
        ("unjudged", "answers", "Answers without a verdict."),
        ("unjudged/{outcome}", "answers", "Answers without a verdict, by what happened."),
        ("reward/repeated_timeouts", "answers", "Answers whose check timed out, and that several siblings gave."),
    ),
    *_of(
        Kind.gauge,
        STEP,
        ("outcome/{outcome}", "share", "Share of answers with an outcome of grading."),
        ("reward/cached", "share", "Share of verdicts that the check of an equal answer decided."),
        ("reward/seconds/p50", "s", "Seconds spent on grading an answer, median."),
        ("reward/seconds/p95", "s", "Seconds spent on grading an answer, 95th percentile."),
        ("reward/seconds/max", "s", "Seconds spent on grading the slowest answer."),
    ),
    _named(
        "reward_answers_per_second", "reward/answers_per_s", "answers/s",
        "Answers graded per second of the slowest reward actor.", STEP,
    ),
    _histogram("reward/seconds", "s", "Seconds spent on grading an answer.", SECONDS),
    # ---- groups, the queue, staleness
    *_of(
        Kind.gauge,
        STEP,
        ("groups/dropped_share", "share", "Share of groups whose rewards are all equal."),
        ("staleness/max", "updates", "Updates since the weights of the oldest token that was learnt from."),
        ("staleness/mean", "updates", "Updates since the weights of an answer's oldest token, mean."),
        ("staleness/bound", "updates", "Largest staleness allowed (run.max_staleness)."),
        ("versions/mixed", "share", "Share of answers that several versions of the weights sampled."),
        ("queue/depth", "batches", "Batches requested and not yet learnt from, when the step took its own."),
        ("queue/ready", "batches", "Of these, batches that were sampled whole."),
        ("dynamic_sampling/rounds", "rounds", "Further rounds of sampling that the step took."),
    ),
    *_of(
        Kind.counter,
        STEP,
        ("dynamic_sampling/groups", "groups", "Groups requested by dynamic sampling."),
        ("dynamic_sampling/thrown", "groups", "Groups that dynamic sampling left out."),
        ("dynamic_sampling/given_up", "answers", "Answers that dynamic sampling aborted."),
    ),
    _histogram("staleness/answers", "updates", "Updates since the weights of an answer's oldest token.", UPDATES),
    # ---- the update
    *_of(
        Kind.counter,
        STEP,
        ("no_op", "steps", "Steps with nothing to learn."),
        ("skipped_updates", "updates", "Optimizer steps skipped for a non-finite loss or gradient."),
        ("learner/tokens", "tokens", "Tokens learnt from, prompts included."),
    ),
    _named("loss", "loss/total", "", "Loss.", STEP),
    *_of(
        Kind.gauge,
        STEP,
        ("loss/control", "", "Loss of the control tokens."),
        ("loss/response", "", "Loss of the other response tokens."),
        ("loss/kl", "", "Loss of the KL term, its coefficient included."),
        ("loss/{mode}", "", "Surrogate loss of the answers in a mode."),
        ("entropy", "nats", "Entropy of a response token, mean."),
        ("entropy/control", "nats", "Entropy of a control token, mean."),
        ("kl", "nats", "KL divergence from the reference model, per token."),
        ("ratio_outside", "share", "Share of tokens whose probability changed by more than a tenth."),
        ("clip_fraction", "share", "Share of tokens whose gradient was clipped away."),
        ("clip/high", "share", "Share of tokens clipped by the upper bound."),
        ("clip/low", "share", "Share of tokens clipped by the lower bound."),
        ("clip/dual", "share", "Share of tokens clipped by the dual clip."),
        ("grad_norm", "", "Norm of the gradient before clipping, mean over optimizer steps."),
        ("grad_norm/control", "", "Norm of the gradient at control tokens, with respect to the last hidden states."),
        ("grad_norm/response", "", "Norm of the gradient at other tokens, with respect to the last hidden states."),
        ("lr", "", "Learning rate."),
        ("mismatch/kl", "nats", "KL divergence between sampler and learner, per token."),
        ("mismatch/mean_abs", "nats", "Difference of log-probs between sampler and learner, mean."),
        ("mismatch/max_abs", "nats", "Difference of log-probs between sampler and learner, largest."),
        ("importance/mean", "", "Learner's over sampler's probability of a token, mean."),
        ("importance/max", "", "Learner's over sampler's probability of a token, largest."),
        ("importance/capped", "share", "Share of tokens above algorithm.importance_cap."),
        ("learner/tokens_per_s_rank", "tokens/s", "Tokens per second of one learner rank."),
        ("learner/tflops", "TFLOP/s", "Model FLOPs per second of one learner rank."),
        ("learner/mfu", "share", "Model FLOPs utilization: of the device's peak."),
        ("learner/hfu", "share", "Hardware FLOPs utilization: of the device's peak, recomputation included."),
        ("learner/padding", "share", "Share of padding in the learner's rows."),
        ("learner/fill", "share", "Tokens over the capacity of the learner's rows."),
        ("learner/imbalance", "", "Cost of the costliest learner rank over the mean."),
        ("learner/memory_gib/{phase}", "GiB", "Peak memory of a learner rank in a phase of the update."),
    ),
    _named(
        "learner_tokens_per_second", "learner/tokens_per_s", "tokens/s",
        "Tokens learnt from per second of the update.", STEP,
    ),
    # ---- sampling
    _named(
        "rollout_tokens_per_second", "rollout/tokens_per_s", "tokens/s",
        "Response tokens per second of all rollout workers.", STEP,
    ),
    *_of(
        Kind.gauge,
        STEP,
        ("rollout/tokens_per_s/{mode}", "tokens/s", "Response tokens per second in a mode, of all rollout workers."),
        ("rollout/tokens_per_s/worker/{worker}", "tokens/s", "Response tokens per second of a rollout worker."),
    ),
    *_of(
        Kind.counter,
        STEP,
        ("rollout/prompt_tokens", "tokens", "Prompt tokens of all answers, each sibling's counted."),
        ("rollout/response_tokens/{mode}", "tokens", "Response tokens in a mode."),
    ),
    *_of(
        Kind.gauge,
        WORKERS,
        ("rollout/running/worker/{worker}", "answers", "Answers that vLLM samples at a time, mean over its steps."),
        ("rollout/waiting/worker/{worker}", "answers", "Answers that wait within vLLM, mean over its steps."),
        ("rollout/queued/worker/{worker}", "answers", "Answers requested and not yet given to vLLM."),
        ("rollout/cache_use/worker/{worker}", "share", "Share of vLLM's key-value cache in use, mean over its steps."),
        ("rollout/cache_use_max/worker/{worker}", "share", "Share of vLLM's key-value cache in use, largest."),
        ("rollout/memory_gib/worker/{worker}", "GiB", "Memory of a rollout worker: its GPU's, or resident."),
    ),
    *_of(
        Kind.counter,
        WORKERS,
        ("rollout/preemptions/worker/{worker}", "answers", "Answers that vLLM put back for want of cache."),
        ("restarts/worker/{worker}", "restarts", "Restarts of a rollout worker."),
        ("restarts/reward/{worker}", "restarts", "Restarts of a reward actor."),
        ("restarts/learner", "restarts", "Restarts of all learner ranks, after one was lost."),
    ),
    *_of(
        Kind.counter,
        TIMELINE,
        ("rollout/idle_seconds/{reason}/worker/{worker}", "s", "Seconds that a rollout worker was idle, by reason."),
    ),
    # ---- time
    _named("step_seconds", "seconds/step", "s", "Seconds of the step.", STEP),
    *_of(
        Kind.gauge,
        STEP,
        ("seconds/rollout", "s", "Seconds that the step waited for answers."),
        ("seconds/reward", "s", "Seconds that the step waited for verdicts."),
        ("seconds/learner", "s", "Seconds that the step waited for the learner."),
    ),
    _named(
        "weight_sync_seconds", "weight_sync/seconds", "s",
        "Seconds that the step waited for weights to arrive.", STEP,
    ),
    *_of(
        Kind.gauge,
        TIMELINE,
        ("weight_sync/publish_seconds", "s", "Seconds that the slowest learner rank spent on sending weights."),
        ("weight_sync/load_seconds", "s", "Seconds that the slowest rollout worker spent on loading weights."),
    ),
    *_of(Kind.counter, WORKERS, ("weight_sync/bytes", "B", "Bytes of weights sent to rollout workers, all copies.")),
    _named("rollout_busy", "busy/rollout", "share", "Share of the time in which rollout workers sampled.", TIMELINE),
    _named(
        "rollout_busy_by_worker", "busy/rollout/worker/{worker}", "share",
        "Share of the time in which a rollout worker sampled.", TIMELINE,
    ),
    _named("reward_busy", "busy/reward", "share", "Share of the time in which reward actors graded.", TIMELINE),
    _named("learner_busy", "busy/learner", "share", "Share of the time in which learner ranks learnt.", TIMELINE),
    _named(
        "step_vs_max", "pipeline/step_vs_max", "",
        "Time of the steps over the work of the busiest worker or rank.", TIMELINE,
    ),
    # ---- the machine, and tracking itself
    *_of(
        Kind.gauge,
        TRACKER,
        ("memory/host_gib", "GiB", "Memory of all processes of the run on the driver's host."),
        ("memory/available_gib", "GiB", "Memory that is free on the driver's host."),
        ("disk/free_gib", "GiB", "Disk space left for the run folder."),
        ("tracking/seconds", "s", "Seconds that the step before spent on figures and trackers."),
        ("tracking/cpu_seconds", "s", "CPU seconds that the driver spent on them since, trackers' threads included."),
    ),
    *_of(Kind.counter, TRACKER, ("tracking/failures/{tracker}", "failures", "Failures of a tracker.")),
    # ---- validation
    *_of(
        Kind.gauge,
        VALIDATION,
        ("validation/reward", "reward", "Mean reward on held-out questions."),
        ("validation/accuracy", "share", "Share of right answers to held-out questions."),
        ("validation/think_rate", "share", "Share of answers to held-out questions that begin by thinking."),
        ("validation/tokens", "tokens", "Mean tokens of an answer to a held-out question."),
        ("validation/accuracy/level/{level}", "share", "Share of right answers to held-out questions of a level."),
        ("validation/think_rate/level/{level}", "share", "Share of held-out answers at a level that think."),
        ("validation/unjudged", "answers", "Answers to held-out questions without a verdict."),
    ),
)  # fmt: skip


def _warm_up(module: str, *rows: tuple[str, str, str]) -> tuple[Metric, ...]:
    """In files alone: a warm-up has no trackers."""
    return tuple(Metric(key, unit, Kind.gauge, text, module, sinks=frozenset({Sink.jsonl})) for key, unit, text in rows)


EVALUATION = "orchestrator.training.warmup_evaluation"
WARM_UP: dict[str, tuple[Metric, ...]] = {  # by file
    "warmup.jsonl": _warm_up(
        "orchestrator.training.warmup_steps",
        ("step", "steps", "Optimizer steps that are finished."),
        ("loss", "nats", "Loss per token."),
        ("lr", "", "Learning rate."),
        ("tokens", "tokens", "Tokens learnt from in the step, prompts included."),
        ("seconds", "s", "Seconds since the warm-up began, in all processes that made it."),
    ),
    "warmup_evaluation.jsonl": _warm_up(
        EVALUATION,
        ("step", "steps", "Optimizer steps that are finished."),
        ("time", "s", "When the line was written, since the epoch."),
        ("validation/think_rate", "share", "Share of answers that begin by thinking, the model choosing."),
        ("validation/mode_rate/{mode}", "share", "Share of them in a mode, where there are more than two modes."),
        ("validation/no_mode", "share", "Share of them that begin without a control token."),
        ("validation/accuracy", "share", "Share of right answers, the model choosing."),
        ("validation/tokens", "tokens", "Mean tokens of an answer, the model choosing."),
        ("validation/truncated", "share", "Share of answers that no end token ended, the model choosing."),
        ("validation/think_rate/level/{level}", "share", "Think rate at a level."),
        ("validation/accuracy/level/{level}", "share", "Accuracy at a level."),
        ("validation/tokens/level/{level}", "tokens", "Tokens at a level."),
        ("validation/accuracy/forced/{mode}", "share", "Share of right answers, the mode given."),
        ("validation/tokens/forced/{mode}", "tokens", "Mean tokens of an answer, the mode given."),
        ("validation/truncated/forced/{mode}", "share", "Share of answers that no end token ended, the mode given."),
        ("validation/accuracy/forced/{mode}/level/{level}", "share", "Accuracy at a level, the mode given."),
        ("validation/tokens/forced/{mode}/level/{level}", "tokens", "Tokens at a level, the mode given."),
        ("validation/leaked", "share", "Share of short answers, that mode given, with reasoning in them."),
        ("validation/leaked/level/{level}", "share", "The same at a level."),
        ("validation/leaked/{cause}", "share", "The same by cause, of which an answer may have several."),
        ("validation/answers", "answers", "Answers with a verdict, which the figures are over."),
        ("validation/unjudged", "answers", "Answers without one."),
        ("validation/seconds", "s", "Seconds that the evaluation took."),
    ),
}
