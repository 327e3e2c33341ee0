"""What is chosen for settings that are null, where the choice depends on several others.

In: a typed configuration. Out: answers. Must not know: files, machines, other rooms.
"""

from __future__ import annotations

from conf.choices import Device, Objective
from conf.schema import Config, LearnerConf, RolloutConf


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
