"""The one list of what a run's figures warn of: advisories in words here, alerts for Prometheus from the same rules.

In: a run's records (the lines of metrics.jsonl, newest last), its configuration as plain objects (config.yaml). Out:
`RULES`; `advisories`. Must not know: files, Prometheus, how an advisory is shown.

A rule holds when all its conditions held at each of its last `steps` training steps, or, as an alert, for `minutes`.
A figure that is missing meets no condition. Counters are summed over these steps, or over the last hour as an alert;
a rule of counts alone (`minutes` 0) does not wait until there are so many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from orchestrator.tracking.conditions import Age, Condition, Counted, Formula, Least, Metric, Quantity, Seen, Setting
from orchestrator.tracking.numbers import duration, exact_percent, number

Severity = Literal["info", "warning", "critical"]
Form = Literal["share", "number", "count", "seconds"]

FORMS: dict[Form, Callable[[float], str]] = {
    "share": exact_percent,
    "number": number,
    "count": lambda value: f"{value:,.0f}",
    "seconds": duration,
}


@dataclass(frozen=True)
class Rule:
    name: str  # in CamelCase; the alert's, after "Thinkless"
    severity: Severity
    conditions: tuple[Condition, ...]  # all must hold
    steps: int  # training steps in a row at which they must
    minutes: int  # that they must hold for, as an alert
    words: str  # the advisory; {name} is a figure
    figures: Mapping[str, tuple[Quantity, Form]]  # by the names in `words`
    meaning: str  # the runbook's first half: how it comes about
    action: str  # its second half: what to do


@dataclass(frozen=True)
class Advisory:
    """A rule that holds for a run now."""

    rule: Rule
    text: str  # `rule.words` with the run's figures
    step: int  # the newest step it was seen at

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def severity(self) -> Severity:
        return self.rule.severity


STEP = Metric("seconds/step")
THINK_RATE = Metric("think_rate/all")
RAREST_MODE = Least("mode_rate/{mode}")  # where there are more than two
SAMPLERS, RANKS = Metric("busy/rollout"), Metric("busy/learner")
FOR_ANSWERS = Formula(
    Formula(Metric("seconds/rollout", missing=0), "+", Metric("seconds/reward", missing=0)), "/", STEP
)
FOR_WEIGHTS = Formula(
    Formula(Metric("seconds/learner", missing=0), "+", Metric("weight_sync/seconds", missing=0)), "/", STEP
)
DROPPED = Metric("groups/dropped_share")
STALENESS, BOUND = Metric("staleness/max"), Setting("run.max_staleness", "staleness/bound")
MISMATCH = Metric("mismatch/kl")
SILENCE = Age("time")
TIMED_OUT = Counted("reward/answers/timed_out")
LATE = Formula(TIMED_OUT, "/", Counted("reward/answers/{outcome}"))
DISK = Metric("disk/free_gib")
RESTARTS = Counted("restarts/worker/{worker}")
GRADER_RESTARTS = Counted("restarts/reward/{worker}")
LEARNER_RESTARTS = Counted("restarts/learner")
SKIPPED = Counted("skipped_updates")
FAILURES = Counted("tracking/failures/{tracker}")

RULES: tuple[Rule, ...] = (
    Rule(
        "ModeCollapseToShort",
        "warning",
        (Condition(THINK_RATE, "<", 0.02),),
        steps=10,
        minutes=10,
        words="Only {rate} of the answers think: the policy has all but given up one of its modes.",
        figures={"rate": (THINK_RATE, "share")},
        meaning="Almost every answer begins with the short token. A mode that is not sampled gets no gradient, so it "
        "does not come back by itself; on questions that need reasoning, accuracy falls.",
        action="Compare the think rate by level and the accuracy of both modes from before. Go on from a checkpoint "
        "before the fall with a smaller algorithm.alpha or learner.lr, or raise reward.correct_think.",
    ),
    Rule(
        "ModeCollapseToThink",
        "warning",
        (Condition(THINK_RATE, ">", 0.98),),
        steps=10,
        minutes=10,
        words="{rate} of the answers think: the policy has all but given up short answers.",
        figures={"rate": (THINK_RATE, "share")},
        meaning="Almost every answer begins with the think token, so that nothing is saved. Right when all problems "
        "are hard (a competition's), a collapse when some levels are easy.",
        action="Look at the accuracy of short answers by level before the rise. Where they are seldom right, warm up "
        "longer or on more short pairs; else lower reward.correct_think, or algorithm.alpha.",
    ),
    Rule(
        "ModeAbandoned",
        "warning",
        (Condition(RAREST_MODE, "<", 0.02),),
        steps=10,
        minutes=10,
        words="One of the modes has only {rate} of the answers: the policy has all but given it up.",
        figures={"rate": (RAREST_MODE, "share")},
        meaning="Of more than two modes one is hardly sampled any more, and what is not sampled gets no gradient. "
        "Right when no question needs it: when it is never right more often than a cheaper mode.",
        action="mode_rate/ says which mode it is, accuracy/ by mode what it was worth before. Where it was worth "
        "something, go on from a checkpoint before the fall with a smaller algorithm.alpha or learner.lr; for one "
        "between short and think, look at reward.correct_between and warm up on more of its pairs.",
    ),
    Rule(
        "NoProgress",
        "critical",
        (Condition(SILENCE, ">", 1200.0), Condition(SILENCE, ">", Formula(5.0, "*", STEP))),
        steps=1,
        minutes=1,
        words="Nothing has been recorded for {silence}; the last step took {step}.",
        figures={"silence": (SILENCE, "seconds"), "step": (STEP, "seconds")},
        meaning="The run is there, but neither a step nor a validation has ended for 20 minutes and for the time of "
        "five steps. A long evaluation explains it; otherwise an actor hangs or a host is gone.",
        action="Look at the end of the log and, in Ray's dashboard, at the stack traces of the actors that the driver "
        "waits for. Every wait has a limit (docs/architecture.md) and then names who waited for whom; Ctrl-C or ray "
        "job stop saves the last complete step.",
    ),
    Rule(
        "NothingToLearn",
        "warning",
        (Condition(DROPPED, ">", 0.95),),
        steps=5,
        minutes=10,
        words="{dropped} of the prompts give no gradient: all answers to each earned the same reward.",
        figures={"dropped": (DROPPED, "share")},
        meaning="Siblings with equal rewards have zero advantages. The problems are too easy or too hard for the "
        "model, or the reward function tells no answers apart.",
        action="Look at accuracy by level: train on levels between 10 % and 90 %, raise rollout.group_size or turn on "
        "rollout.dynamic_sampling.rounds. At an accuracy of 0 %, look at a few answers and their golds first.",
    ),
    Rule(
        "SamplersIdle",
        "warning",
        (Condition(Formula(FOR_ANSWERS, "-", SAMPLERS), ">", 0.25),),
        steps=5,
        minutes=10,
        words="The learner waited for answers during {waited} of a step, and the samplers worked {busy} of it.",
        figures={"waited": (FOR_ANSWERS, "share"), "busy": (SAMPLERS, "share")},
        meaning="Samplers stand idle while the learner waits for them: a few long answers or one slow worker hold the "
        "batch, or grading does.",
        action="In the timeline, see which actor works at the end of a step. One worker: its host or GPU is slower. "
        "Long answers: raise run.max_staleness, so that later batches fill the gap, or cap max_response_tokens. "
        "Grading: raise reward.workers or reward.processes.",
    ),
    Rule(
        "LearnerIdle",
        "warning",
        (Condition(Formula(FOR_WEIGHTS, "-", RANKS), ">", 0.25),),
        steps=5,
        minutes=10,
        words="The learner and its weights took {waited} of a step, and its ranks worked {busy} of it.",
        figures={"waited": (FOR_WEIGHTS, "share"), "busy": (RANKS, "share")},
        meaning="Learner ranks stand idle while everything waits for them or for their weights: weight sync is slow, "
        "tensors move to and from host memory, or the ranks' shares differ.",
        action="Compare the seconds of weight sync with those of learning. Weight sync: cluster.transport, and the "
        "network between the hosts. Ranks: learner/imbalance, learner.max_tokens. Colocated: offloading takes its time "
        "every step; larger batches make it rarer.",
    ),
    Rule(
        "StalenessAtBound",
        "info",
        (Condition(BOUND, ">=", 1.0), Condition(STALENESS, ">=", BOUND), Condition(SAMPLERS, "<", 0.8)),
        steps=10,
        minutes=15,
        words="Answers are as old as run.max_staleness={bound} allows, and the samplers work only {busy} of the time.",
        figures={"bound": (BOUND, "count"), "busy": (SAMPLERS, "share")},
        meaning="The queue of batches is full, so samplers wait until an update makes room: the learner is the slower "
        "part. At the bound with busy samplers is how a pipelined run should look.",
        action="Give the learner more (ranks, learner.max_tokens, a GPU of the samplers'), or lower run.max_staleness: "
        "fresher answers at the same speed.",
    ),
    Rule(
        "GraderTimeouts",
        "warning",
        (Condition(LATE, ">", 0.01),),
        steps=5,
        minutes=5,
        words="Grading timed out on {share} of the answers ({count}); they are left out of training.",
        figures={"share": (LATE, "share"), "count": (TIMED_OUT, "count")},
        meaning="Checks take longer than reward.timeout_s and are killed. Answers that are hard to check leave their "
        "groups, which biases training; above reward.max_unjudged of all answers, the run ends.",
        action="unjudged.jsonl in the run folder has examples. If all checks are slow, the host is overloaded: give "
        "reward.num_cpus more, or reward.processes less. If it is the same few answers, raise reward.timeout_s, or fix "
        "the reward function.",
    ),
    Rule(
        "Mismatch",
        "warning",
        (Condition(MISMATCH, ">", 0.01),),
        steps=5,
        minutes=10,
        words="The sampler's policy is not the learner's: KL {kl} nats a token (limit 0.01).",
        figures={"kl": (MISMATCH, "number")},
        meaning="The learner gives sampled tokens other log-probs than the sampler did, so gradients are of another "
        "policy. Staleness adds to it; a sudden rise is a weight sync or a kernel gone wrong.",
        action="Set run.logprob_check_every=1, which compares both on fresh weights. Right after a push: a fault of "
        "the sampler or the transport (docs/gpu.md). Only in stale batches: lower run.max_staleness or learner.lr, or "
        "set algorithm.importance=truncate.",
    ),
    Rule(
        "UpdatesSkipped",
        "warning",
        (Condition(SKIPPED, ">", 0.0),),
        steps=10,
        minutes=0,
        words="Optimizer steps skipped for a non-finite loss or gradient: {count}.",
        figures={"count": (SKIPPED, "count")},
        meaning="A loss or gradient was NaN or infinite. After learner.max_bad_steps in a row the run ends.",
        action="Look at the sequences in bad_steps.jsonl of the run folder; lower learner.lr.",
    ),
    Rule(
        "WorkerRestarted",
        "warning",
        (Condition(RESTARTS, ">", 0.0),),
        steps=20,
        minutes=0,
        words="Rollout workers that died and were started again: {count}.",
        figures={"count": (RESTARTS, "count")},
        meaning="Ray restarted a rollout worker, whose answers in flight were sampled again. After "
        "rollout.max_restarts of a worker the run ends.",
        action="Look for its last lines in the log and in Ray's logs/ folder. Killed for memory: lower "
        "rollout.kv_cache_gib or rollout.gpu_memory_utilization. The same host every time: take it out.",
    ),
    Rule(
        "RewardActorRestarted",
        "warning",
        (Condition(GRADER_RESTARTS, ">", 0.0),),
        steps=20,
        minutes=0,
        words="Reward actors that died and were started again: {count}.",
        figures={"count": (GRADER_RESTARTS, "count")},
        meaning="Ray restarted a reward actor, and what it was grading was graded again. After reward.max_restarts of "
        "an actor the run ends.",
        action="Look for its last lines in the log and in Ray's logs/ folder: killed for memory, or for giving no sign "
        "of life for cluster.hang_s. An answer on which it hangs every time: unjudged.jsonl, and please report it.",
    ),
    Rule(
        "LearnerRestarted",
        "warning",
        (Condition(LEARNER_RESTARTS, ">", 0.0),),
        steps=20,
        minutes=0,
        words="Learner ranks that were lost, and all of them started again: {count}.",
        figures={"count": (LEARNER_RESTARTS, "count")},
        meaning="A learner rank died or hung. All ranks started again with the state of the last finished update, and "
        "the interrupted one was done again. After learner.max_restarts the run ends.",
        action="The log names the rank. Look for its last lines there and in Ray's logs/ folder. Killed for memory: "
        "lower learner.max_tokens, or set learner.gradient_checkpointing. The same host every time: take it out.",
    ),
    Rule(
        "DiskLow",
        "critical",
        (Condition(DISK, "<", 10.0),),
        steps=1,
        minutes=5,
        words="{free} GiB are left on the disk of the run folder.",
        figures={"free": (DISK, "number")},
        meaning="The next checkpoint may not fit; then the run ends, the checkpoint before it being whole.",
        action="Free space, or keep fewer checkpoints: run.keep_checkpoints, run.save_every. A checkpoint takes about "
        "12 bytes a parameter for the optimizer and the weights besides.",
    ),
    Rule(
        "TrackerFailed",
        "info",
        (Condition(FAILURES, ">", 0.0),),
        steps=20,
        minutes=0,
        words="Figures that did not reach a tracker (TensorBoard, Weights & Biases, MLflow): {count} failures.",
        figures={"count": (FAILURES, "count")},
        meaning="A tracker could not be written to. Training goes on without it; metrics.jsonl has every figure.",
        action="The console said why at the first failure: the service is down, or its disk is full.",
    ),
)


def advisories(
    records: Sequence[Mapping[str, Any]], config: Mapping[str, Any], now: float | None = None
) -> list[Advisory]:
    """The rules that hold at the newest step, in the order of `RULES`.

    config: nested, as in config.yaml; what it lacks has its default. now: seconds since the epoch, for a run that is
    under way; without it, nothing is said about silence. Reads only the last records, however long the run is.
    """
    if not records:
        return []
    longest = max(rule.steps for rule in RULES)
    trained = list(islice((one for one in reversed(records) if one.get("seconds/step") is not None), longest))
    found = []
    for rule in RULES:
        window = trained[: rule.steps]
        if len(window) < (rule.steps if rule.minutes else 1):
            continue
        seen = [Seen(record, window, records[-1], config, now) for record in window]
        if all(one.meets(condition) for one in seen for condition in rule.conditions):
            shown = {name: _shown(seen[0].value(of), form) for name, (of, form) in rule.figures.items()}
            found.append(Advisory(rule, rule.words.format(**shown), int(window[0]["step"])))
    return found


def _shown(value: float | None, form: Form) -> str:
    return "–" if value is None else FORMS[form](value)
