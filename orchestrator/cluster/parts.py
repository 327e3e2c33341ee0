"""Learner, sampler and grader, each with its actors, for training, warm-up, replay and evaluation.

In: an entered cluster, settings, the model's folder. Out: `Learner`, `Sampler`, `Grader`, whose actors are starting;
`start_learner` and `orchestrator.cluster.cluster.started` wait for them. Must not know: what they are used for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from conf.schema import Config, LearnerConf
from learner.data.flops import Shape, read_shape
from learner.learner import Learner
from orchestrator.base.waiting import waiting
from orchestrator.cluster.cluster import Cluster, listening_on, started
from orchestrator.cluster.handles import wait_all
from reward.grader import Grader
from reward.worker import RewardWorker
from rollout.data.tokens import refuse_absent
from rollout.engine import Engine
from rollout.mode import ControlTokens
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.weight_sync.weights import Weights
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

    reference: whether the frozen reference model is loaded as well; None: where the loss has a KL term.
    during: begins the lines that say what is waited for. Raises BadInput for a port in use, and for a model that the
    learner cannot compute.
    """
    with waiting(f"{during}starting the learner ranks"):
        started(learner.ranks, "ready", learner.conf.start_timeout_s)
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
) -> Sampler:
    """current: see `RolloutWorker`; sleeps: see `Engine`."""
    engine = functools.partial(Engine, sleeps=sleeps, deterministic=conf.run.deterministic)
    arguments = [conf.rollout, conf.model, path, control, conf.run.seed, current, engine]
    check = functools.partial(refuse_absent, path)
    return Sampler(cluster.rollout_workers(conf.rollout, RolloutWorker, arguments, check), sampling)


def make_grader(cluster: Cluster, conf: Config, path: str, control: ControlTokens) -> Grader:
    arguments = [conf.reward, path, control, conf.model]
    return Grader(cluster.reward_actors(conf.reward, RewardWorker, arguments), conf.reward)
