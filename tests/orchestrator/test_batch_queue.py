"""Batches in flight of a resumed run are those of the run that was not interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from conf.schema import Config, RewardConf, RolloutConf, RunConf
from orchestrator.training.batch_queue import BatchQueue
from reward.grader import Grader
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from tests.helpers.handles import PendingHandle
from tests.helpers.scripted import counted, number_of

PROMPTS = 3  # per step


def made(
    max_staleness: int, steps: int, asked: Sequence[dict[str, Any]] = (), prompts: dict[str, Any] | None = None
) -> tuple[BatchQueue, PendingHandle]:
    """A queue in front of one worker and one reward actor that never answer, and that worker."""
    stream = counted(100)
    if prompts:
        stream.restore(prompts)
    conf = Config(
        run=RunConf(steps=steps, max_staleness=max_staleness),
        rollout=RolloutConf(prompts_per_step=PROMPTS, group_size=1),
    )
    worker = PendingHandle()
    sampler = Sampler([worker], SamplingParams(1.0, 1.0, 8))
    return BatchQueue(conf, stream, sampler, Grader([PendingHandle()], RewardConf()), asked), worker


def oldest(batch_queue: BatchQueue) -> list[int]:
    return [number_of(prompt) for prompt in batch_queue.oldest().batch.prompts]


def batch(step: int) -> list[int]:
    return list(range(PROMPTS * step, PROMPTS * (step + 1)))


@pytest.mark.parametrize("staleness", range(4))
@pytest.mark.parametrize("interrupted", range(6))
def test_a_resumed_run_requests_the_batches_in_flight_again_with_the_same_step_numbers(
    staleness: int, interrupted: int
) -> None:
    batch_queue, worker = made(staleness, 6)
    states = []
    for step in range(6):
        states.append(json.loads(json.dumps(batch_queue.state())))
        batch_queue.ask(step)
        assert oldest(batch_queue) == batch(step)
    resumed, other = made(staleness, 6, **states[interrupted])
    for step in range(interrupted, 6):
        resumed.ask(step)
        assert oldest(resumed) == batch(step)

    def requested(handle: PendingHandle) -> list[tuple[int, list[int]]]:
        return [(request.step, [number_of(prompt) for prompt in request.prompts]) for request in handle.requests]

    assert requested(worker) == [(step, batch(step)) for step in range(6)]  # none beyond the last step
    assert requested(other) == requested(worker)[interrupted:]


def test_a_queue_resumed_with_a_lower_staleness_loses_no_batch_at_any_later_checkpoint() -> None:
    batch_queue, _ = made(3, 20)
    for step in range(8):
        batch_queue.ask(step)
        assert oldest(batch_queue) == batch(step)
        batch_queue, _ = made(0, 20, **batch_queue.state())  # saved and resumed after every step
