"""Learning rate by optimizer step."""

from __future__ import annotations

import math

from conf.schema import LearnerConf, Schedule


def learning_rate(conf: LearnerConf, update: int, total: int) -> float:
    """Rate of optimizer step `update` (0-based) of `total`: linear increase over warmup_steps, full rate up to the
    fraction decay_start, then the schedule down to min_lr_ratio * lr at the last step (constant: no decrease)."""
    if update < conf.warmup_steps:
        return conf.lr * (update + 1) / conf.warmup_steps
    if conf.schedule is Schedule.constant:
        return conf.lr
    start = max(conf.warmup_steps, round(conf.decay_start * total))
    done = min(1.0, max(0, update - start) / max(1, total - 1 - start))
    shape = 1 - done if conf.schedule is Schedule.linear else 0.5 * (1 + math.cos(math.pi * done))
    return conf.lr * (conf.min_lr_ratio + (1 - conf.min_lr_ratio) * shape)
