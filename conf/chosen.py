"""What is chosen for settings that are null, where the choice depends on several others.

In: a typed configuration. Out: answers. Must not know: files, machines, other rooms.
"""

from __future__ import annotations

from conf.choices import Device, OnWeightSync
from conf.schema import Config, LearnerConf


def async_scheduling(conf: Config) -> bool:
    """rollout.async_scheduling as given, or as chosen."""
    if conf.rollout.async_scheduling is not None:
        return conf.rollout.async_scheduling
    return conf.rollout.device is Device.gpu and nothing_in_flight_at_sync(conf)


def nothing_in_flight_at_sync(conf: Config) -> bool:
    """Whether no sequence is running when a sampler gets new weights."""
    return conf.run.max_staleness == 0 or conf.rollout.on_weight_sync is OnWeightSync.drain


def overlap_comm(learner: LearnerConf) -> bool:
    """learner.overlap_comm as given, or as chosen."""
    if learner.overlap_comm is not None:
        return learner.overlap_comm
    return learner.device is Device.gpu and learner.ranks > 1 and learner.zero_stage in (2, 3)


def fused_adamw(learner: LearnerConf) -> bool:
    """learner.fused_adamw as given, or as chosen."""
    return learner.device is Device.gpu if learner.fused_adamw is None else learner.fused_adamw
