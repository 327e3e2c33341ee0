"""What follows from several settings: what is chosen for those that are null, and whether something happens at all.

In: a typed configuration. Out: answers. Must not know: files, machines, other rooms.
"""

from __future__ import annotations

from conf.choices import Device, Objective
from conf.schema import Config, LearnerConf, RolloutConf, RunConf


def async_scheduling(rollout: RolloutConf) -> bool:
    """rollout.async_scheduling as given, or as chosen."""
    return rollout.device is Device.gpu if rollout.async_scheduling is None else rollout.async_scheduling


def overlap_comm(learner: LearnerConf) -> bool:
    """learner.overlap_comm as given, or as chosen."""
    if learner.overlap_comm is not None:
        return learner.overlap_comm
    return learner.device is Device.gpu and learner.ranks > 1 and learner.zero_stage in (2, 3)


def fused_adamw(learner: LearnerConf) -> bool:
    """learner.fused_adamw as given, or as chosen."""
    return learner.device is Device.gpu if learner.fused_adamw is None else learner.fused_adamw


def objective(conf: Config) -> Objective:
    """sweep.objective as given, or as chosen."""
    if conf.sweep.objective is not None:
        return conf.sweep.objective
    return Objective.validation_reward if conf.evaluate.every else Objective.reward


def saves_beside(run: RunConf) -> bool:
    """Whether checkpoints are written beside training, from a copy; the last one never is."""
    return run.save_in_background and 0 < run.save_every < run.steps
