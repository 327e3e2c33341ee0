"""A healthy run and, for each rule, a fault: what the alerts' unit tests, and those of the advisories, are made of.

In: nothing. Out: figures of training steps, by their keys in metrics.jsonl; settings, as in
config.yaml. Must not know: Prometheus, files.
"""

from __future__ import annotations

STEP_S = 60.0  # seconds from one step to the next
SETTINGS = {"run": {"max_staleness": 2}}
HEALTHY = {
    "seconds/step": 40.0,
    "seconds/rollout": 22.0,
    "seconds/reward": 1.0,
    "seconds/learner": 15.0,
    "weight_sync/seconds": 1.0,
    "busy/rollout": 0.9,
    "busy/learner": 0.38,
    "think_rate/all": 0.4,
    "mode_rate/think": 0.25,
    "mode_rate/medium": 0.15,
    "mode_rate/short": 0.6,
    "groups/dropped_share": 0.3,
    "staleness/max": 2.0,
    "staleness/bound": 2.0,
    "mismatch/kl": 0.0004,
    "reward/answers/correct": 96.0,
    "reward/answers/timed_out": 0.0,
    "skipped_updates": 0.0,
    "restarts/worker/0": 0.0,
    "restarts/reward/0": 0.0,
    "restarts/learner": 0.0,
    "tracking/failures/wandb": 0.0,
    "disk/free_gib": 400.0,
}

FAULTS: dict[str, dict[str, float]] = {  # rule -> what a faulty step has instead; none: there are no more steps
    "ModeCollapseToShort": {"think_rate/all": 0.004},
    "ModeCollapseToThink": {"think_rate/all": 0.996},
    "ModeAbandoned": {"mode_rate/medium": 0.006, "mode_rate/short": 0.744},
    "NoProgress": {},
    "NothingToLearn": {"groups/dropped_share": 0.97},
    "SamplersIdle": {"seconds/rollout": 30.0, "busy/rollout": 0.35},
    "LearnerIdle": {"weight_sync/seconds": 12.0, "busy/learner": 0.3},
    "StalenessAtBound": {"busy/rollout": 0.7},
    "GraderTimeouts": {"reward/answers/correct": 60.0, "reward/answers/timed_out": 36.0},
    "Mismatch": {"mismatch/kl": 0.034},
    "UpdatesSkipped": {"skipped_updates": 1.0},
    "WorkerRestarted": {"restarts/worker/0": 1.0},
    "RewardActorRestarted": {"restarts/reward/0": 1.0},
    "LearnerRestarted": {"restarts/learner": 1.0},
    "DiskLow": {"disk/free_gib": 4.5},
    "TrackerFailed": {"tracking/failures/wandb": 1.0},
}
