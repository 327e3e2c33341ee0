"""vLLM engines in this process: requests, what they sampled, and which sequences vLLM preempted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from conf.schema import LearnerConf, RolloutConf
from learner.learner import Learner
from rollout.engine import Engine, Request, Sample
from rollout.prompt import Prompt
from rollout.request import RolloutRequest, RolloutResult, SamplingParams
from rollout.trajectory import Trajectory
from rollout.weight_sync.weights import Weights
from rollout.worker import RolloutWorker

MakeWorker = Callable[[Path, RolloutConf], RolloutWorker]


class MakeLearner(Protocol):
    def __call__(self, folder: Path, conf: LearnerConf | None = None, temperature: float = 1.0) -> Learner: ...


TIED = {"lm_head.weight": "model.embed_tokens.weight"}


@dataclass(frozen=True)
class SharedWorker:
    """A rollout worker with the weights that it began with."""

    worker: RolloutWorker
    weights: Weights


def generate(engine: Engine, requests: Sequence[Request], advance: Callable[[int], None] | None = None) -> list[Sample]:
    """The samples of all requests, in order. advance: called with the number of tokens of each one that ends."""
    samples: dict[int, Sample] = {}
    for key, request in enumerate(requests):
        engine.add(key, request)
    while engine.unfinished:
        for key, sample in engine.step():
            samples[key] = sample
            if advance:
                advance(len(sample.token_ids))
    return [samples[key] for key in range(len(requests))]


def rollout_request(
    prompts: Sequence[Prompt],
    siblings: int,
    sampling: SamplingParams,
    batch: int = 1,
    step: int = 0,
    min_version: int = 0,
) -> RolloutRequest:
    pairs = tuple((p, s) for p in range(len(prompts)) for s in range(siblings))
    return RolloutRequest(batch, step, min_version, tuple(prompts), pairs, sampling)


def sampled(request: RolloutRequest, result: RolloutResult) -> list[Trajectory | None]:
    """In the request's order; None where it was given up."""
    return result.trajectories([request.prompts[p] for p, _ in request.siblings], [s for _, s in request.siblings])


def complete(request: RolloutRequest, result: RolloutResult) -> list[Trajectory]:
    """The same where nothing was given up."""
    found = [t for t in sampled(request, result) if t is not None]
    assert len(found) == len(request.siblings)
    return found


def policy_weights(folder: str | Path) -> list[tuple[str, Any]]:
    """The named parameters of a model folder, in float32."""
    from learner.model.policy import load_policy

    policy = load_policy(str(folder), "float32")
    return [(policy.public_name(name), parameter.data) for name, parameter in policy.named_parameters()]


def preempted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every preemption by vLLM's scheduler from now on."""
    scheduler = vllm_scheduler(engine)
    seen: list[dict[str, Any]] = []
    preempt = scheduler._preempt_request

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return preempt(*args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", noted)
    return seen


def vllm_scheduler(engine: Engine) -> Any:
    """vLLM's own, of an engine in this process."""
    core: Any = engine.engine.engine_core  # typed as a client of any kind
    return core.engine_core.scheduler
