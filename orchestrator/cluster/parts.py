"""Learner, sampler and grader, each with its actors, for training, warm-up, replay and evaluation.

In: an entered cluster, settings, the model's folder. Out: `Learner`, `Sampler`, `Grader`, whose actors are starting
(`start_learner` and `orchestrator.cluster.cluster.started` wait for them); or all of them, started, with the sync of
weights between them. Must not know: what they are used for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conf.schema import Config, LearnerConf, Placement
from learner.data.flops import Shape, read_shape
from learner.learner import Learner
from learner.restarts import Restarts
from orchestrator.base.waiting import waiting
from orchestrator.cluster.cluster import Cluster, listening_on, started
from orchestrator.cluster.colocation import Colocation
from orchestrator.cluster.handles import wait_all
from orchestrator.cluster.latest_weights import LatestWeights
from reward.grader import Grader
from reward.worker import RewardWorker
from rollout.base.spans import Spans
from rollout.data.tokens import refuse_absent
from rollout.engine import Engine
from rollout.mode import ControlTokens
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.steering import Steering
from rollout.weight_sync.sync import WeightSync
from rollout.weight_sync.weights import Weights, route
from rollout.worker import RolloutWorker


def make_learner(
    cluster: Cluster,
    conf: Config,
    settings: LearnerConf,
    path: str,
    temperature: float,
    updates: int,
    longest: int = 0,
    shape: Shape | None = None,
    **more: Any,
) -> Learner:
    """settings: conf.learner, or a warm-up's; shape: of the model, where the caller has read it. The other arguments:
    see `LearnerWorker`, and `Learner` for more."""
    from learner.worker import LearnerWorker  # with DeepSpeed, which who only samples does not load

    each = [temperature, updates, longest, conf.run.seed if conf.run.deterministic else None]
    arguments = [[settings, conf.model, path, rank, *each] for rank in range(settings.ranks)]
    ranks = cluster.learner_ranks(settings, LearnerWorker, arguments, functools.partial(refuse_absent, path))
    return Learner(ranks, settings, shape or read_shape(path, conf.model.revision), wait_all, **more)


def start_learner(learner: Learner, conf: Config, reference: bool | None = None, during: str = "") -> int:
    """Wait until the ranks are there, have joined and loaded the model. Returns its number of parameters.

    Samplers on the same GPUs leave them before. reference: whether the frozen reference model is loaded as well; None:
    where the loss has a KL term. during: begins the lines that say what is waited for. Raises BadInput for a port in
    use, and for a model that the learner cannot compute.
    """
    with waiting(f"{during}starting the learner ranks"):
        started(learner.ranks, "ready", learner.conf.start_timeout_s)
    learner.gpu_sharing.starting()
    with waiting(f"{during}loading the learner's model"), listening_on(conf.cluster.port):
        return learner.start(conf.cluster.port, conf.algorithm.kl > 0 if reference is None else reference)


def make_sampler(
    cluster: Cluster,
    conf: Config,
    path: str,
    control: ControlTokens,
    sampling: SamplingParams,
    current: Callable[[], Weights | None] | None = None,
    sleeps: bool = False,
    steering: Steering | None = None,
    may_start: Callable[[], bool] | None = None,
) -> Sampler:
    """current, may_start: see `RolloutWorker`; sleeps, steering: see `Engine`."""
    engine = functools.partial(Engine, sleeps=sleeps, deterministic=conf.run.deterministic, steering=steering)
    arguments = [conf.rollout, conf.model, path, control, conf.run.seed, current, engine, may_start]
    check = functools.partial(refuse_absent, path)
    return Sampler(cluster.rollout_workers(conf.rollout, RolloutWorker, arguments, check), sampling)


def make_grader(cluster: Cluster, conf: Config, path: str, control: ControlTokens) -> Grader:
    arguments = [conf.reward, path, control, conf.model, True, os.getcwd()]
    return Grader(cluster.reward_actors(conf.reward, RewardWorker, arguments), conf.reward)


@dataclass(frozen=True, slots=True)
class Parts:
    """All of them, started."""

    learner: Learner
    sampler: Sampler
    grader: Grader
    weight_sync: WeightSync
    parameters: int  # of the model

    def release(self, cluster: Cluster) -> None:
        for actors in (self.learner.ranks, self.sampler.workers, self.grader.actors):
            cluster.release(actors)


def start_all(
    cluster: Cluster,
    conf: Config,
    path: str,
    control: ControlTokens,
    temperature: float,
    updates: int,
    longest: int,
    spans: Spans,
    shape: Shape | None = None,
    reference: bool | None = None,
    during: str = "",
) -> Parts:
    """Engines load while the learner forms its group, unless they share GPUs. See `make_learner` and `start_learner`
    for the arguments."""
    cluster.reserve(conf.rollout, conf.learner, conf.reward)
    colocated = conf.cluster.placement is Placement.colocated
    latest = LatestWeights(conf.cluster.weight_sync_timeout_s) if conf.rollout.max_restarts else None
    learner = make_learner(cluster, conf, conf.learner, path, temperature, updates, longest, shape, spans=spans)
    sampling = SamplingParams.training(conf.rollout)
    current = latest.current if latest else None
    may_start = current.may_start if current and colocated else None
    sampler = make_sampler(cluster, conf, path, control, sampling, current, colocated, may_start=may_start)
    grader = make_grader(cluster, conf, path, control)
    engines = [worker.call("ready", timeout_s=conf.rollout.start_timeout_s) for worker in sampler.workers]
    if colocated:
        with waiting(f"{during}loading the vLLM engines"):
            wait_all(engines)
        restartable = (conf.rollout.start_timeout_s, latest.let_start) if latest else ()
        colocation = Colocation(
            sampler.workers, learner.ranks, conf.cluster.colocation_timeout_s, wait_all, *restartable
        )
        colocation.recovered = learner.recovered
        learner.gpu_sharing = sampler.gpu_sharing = colocation
    parameters = start_learner(learner, conf, reference, during)
    with waiting(f"{during}starting the reward actors"):
        started(grader.actors, "ready", conf.cluster.start_timeout_s)
    with waiting(f"{during}loading the vLLM engines"):
        wait_all(engines)
    post = latest.post if latest else None
    synchronous = conf.run.max_staleness == 0 or colocated  # samplers on the learner's GPUs have to wait for it anyway
    weight_sync = WeightSync(learner.ranks, sampler, synchronous, wait_all, route(conf), post, spans, learner.recovered)
    if conf.learner.max_restarts:
        lost = cluster.lost_ranks(conf.learner, learner.ranks)
        learner.restarts = restarts = Restarts(
            learner.ranks,
            lost.replace,
            functools.partial(start_learner, learner, conf, reference, during),
            conf.learner.keep_state_every,
            wait_all,
            lost.elsewhere,
        )
        restarts.then = weight_sync.again
    return Parts(learner, sampler, grader, weight_sync, parameters)
