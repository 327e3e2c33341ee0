"""What a number of GPUs can be given to: samplers and learner ranks, apart or in turns.

In: a configuration, GPUs. Out: `Layout`s, each with the settings that make it. Must not know: seconds, memory.

    disaggregated   samplers and learner ranks on GPUs of their own
    colocated       every GPU has a sampler (or a part of one) and a rank, in turns
    lent            samplers on GPUs of their own, and one more on each of the learner's, which samples while nobody
                    learns (not built; benchmarks/simulation.py compares it)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from conf.check import check
from conf.choices import Importance, Old, OnWeightSync, Placement
from conf.errors import BadConfig
from conf.schema import Config
from conf.settings import settings

SPLITS = 8  # at most so many divisions into samplers and ranks


@dataclass(frozen=True, slots=True)
class Layout:
    samplers: int
    ranks: int
    shared: int  # samplers on the learner's GPUs
    staleness: int
    on_weight_sync: OnWeightSync = OnWeightSync.keep
    tensor_parallel: int = 1  # GPUs of each sampler

    @property
    def name(self) -> str:
        each = f" x {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        if not self.shared:
            return f"{self.samplers}{each} + {self.ranks}, disaggregated"
        if self.shared == self.samplers:
            return f"{self.samplers}{each}, colocated"
        return f"{self.samplers - self.shared} + {self.ranks}, lent"

    @property
    def gpus(self) -> int:
        return (self.samplers - self.shared) * self.tensor_parallel + self.ranks

    @classmethod
    def of(cls, conf: Config) -> Layout:
        """A run's."""
        workers, ranks = conf.rollout.workers, conf.learner.ranks
        shared = workers if conf.cluster.placement is Placement.colocated else 0
        return cls(
            workers, ranks, shared, conf.run.max_staleness, conf.rollout.on_weight_sync, conf.rollout.tensor_parallel
        )

    def settings(self, conf: Config) -> dict[str, Any]:
        """{key: value} that differ from `conf`."""
        placement = Placement.colocated if self.shared else Placement.disaggregated
        wanted: dict[str, Any] = {
            "cluster.placement": placement,
            "rollout.workers": self.samplers,
            "learner.ranks": self.ranks,
            "run.max_staleness": self.staleness,
        }
        if self.staleness:
            wanted["rollout.on_weight_sync"] = self.on_weight_sync
            if conf.algorithm.importance is Importance.none and conf.algorithm.old is Old.learner:
                wanted["algorithm.importance"] = Importance.truncate
        known = settings()
        return {key: value for key, value in wanted.items() if known[key].of(conf) != value}

    def applied(self, conf: Config) -> Config:
        return with_settings(conf, self.settings(conf))

    def overrides(self, conf: Config) -> list[str]:
        """As they are given to `thinkless train`; none: it is what `conf` says."""
        return overrides(self.settings(conf))


def overrides(changes: dict[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in changes.items()]


def with_settings(conf: Config, changes: dict[str, Any]) -> Config:
    for key, value in changes.items():
        section, _, name = key.partition(".")
        conf = replace(conf, **{section: replace(getattr(conf, section), **{name: value})})
    return conf


def layouts(conf: Config, gpus: int) -> list[Layout]:
    """Every one of `gpus` GPUs that `conf.check` lets run: colocated, and disaggregated in up to eight divisions, each
    with no batch ahead, one, and what `conf` says. That of `conf` comes first where it has so many GPUs."""
    parts, parallel = conf.rollout.tensor_parallel, conf.learner.sequence_parallel
    stale, given = sorted({0, 1, conf.run.max_staleness}), conf.rollout.on_weight_sync
    found = []
    own = Layout.of(conf)
    if own.gpus == gpus:
        found.append(own)
    splits = range(parts, gpus, parts)
    chosen = splits[:: -(-len(splits) // SPLITS)] if splits else ()
    for staleness in stale:
        if gpus % parts == 0:
            shared, sync = gpus // parts, OnWeightSync.recompute if staleness else given
            found.append(Layout(shared, gpus, shared, staleness, sync, parts))
        apart = conf.cluster.placement is Placement.disaggregated or not staleness
        keep = given if apart else OnWeightSync.keep
        for sampling in chosen:
            ranks = (gpus - sampling) // parallel * parallel
            if ranks and ranks + sampling == gpus:
                found.append(Layout(sampling // parts, ranks, 0, staleness, keep, parts))
    return [one for one in dict.fromkeys(found) if _runs(one, conf)]


def _runs(layout: Layout, conf: Config) -> bool:
    try:
        check(layout.applied(conf))
    except BadConfig:
        return False
    return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "value", value))
