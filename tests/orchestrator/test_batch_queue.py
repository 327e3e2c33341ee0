"""What a checkpoint holds of the batches in flight."""

from __future__ import annotations

from typing import Any

import numpy as np

from conf.schema import ArithmeticConf, Config, DataConf, RolloutConf, RunConf
from orchestrator.training.batch_queue import BatchQueue
from rollout.data.stream import PromptStream
from rollout.prompt import Prompt


class Asked:
    """Stands for sampler and grader: a batch is its prompts, and so are its verdicts."""

    def sample(self, prompts: list[Prompt], group_size: int, step: int) -> list[str]:
        return [prompt.uid for prompt in prompts]

    def ask(self, batch: list[str]) -> list[str]:
        return batch


def made(max_staleness: int, asked: list[dict[str, Any]], prompts: dict[str, Any] | None = None) -> BatchQueue:
    stream = PromptStream(None, lambda text: np.arange(5), DataConf(arithmetic=ArithmeticConf()), 0)
    if prompts:
        stream.restore(prompts)
    conf = Config(run=RunConf(steps=20, max_staleness=max_staleness), rollout=RolloutConf(prompts_per_step=2))
    everybody: Any = Asked()
    return BatchQueue(conf, stream, everybody, everybody, asked)


def test_resumed_with_fewer_ahead_no_batch_is_lost_also_not_at_the_next_checkpoint() -> None:
    undisturbed = made(3, [])
    wanted: list[Any] = []
    for step in range(8):
        undisturbed.ask(step)
        wanted.append(undisturbed.oldest())

    found, batch_queue = [], made(3, [])
    for step in range(8):
        batch_queue.ask(step)
        found.append(batch_queue.oldest())
        state = batch_queue.state()
        batch_queue = made(0, **state)  # saved and resumed after every step, nothing asked for ahead any more
    assert found == wanted
