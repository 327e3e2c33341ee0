"""Dynamic sampling: no informative group is lost, rounds are capped, aborts do not depend on lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from conf.schema import ArithmeticConf, Config, DataConf, DynamicSamplingConf, RewardConf, RolloutConf
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.dynamic_sampling import DynamicSampling
from reward.group import Group, group_trajectories
from reward.verdict import Outcome, Verdict
from rollout.base.spans import FOR_TRAJECTORIES, FOR_VERDICTS
from rollout.data.stream import PromptStream
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.sampler import BatchStats
from rollout.trajectory import Finish, Trajectory

WANTED, SIBLINGS = 8, 4


def informative(prompt: Prompt, every: int) -> bool:
    return int(prompt.uid.rsplit("/", 1)[1]) % every == 0


def answers(prompt: Prompt, every: int) -> list[Trajectory]:
    mixed = informative(prompt, every)
    return [
        Trajectory(
            prompt, i, np.array([4 if mixed and i == 0 else 6, 1], np.int32), np.zeros(2, np.float32),
            Mode.THINK if mixed and i == 0 else Mode.SHORT, Finish.STOP, np.zeros(2, np.int32),
        )
        for i in range(SIBLINGS)
    ]  # fmt: skip


@dataclass
class Batch:
    trajectories: list[Trajectory]
    sampler: Any
    stats: BatchStats = field(default_factory=lambda: BatchStats(10, 0.5))

    def done(self) -> bool:
        return True

    waited: bool = False

    def wait(self) -> list[Trajectory]:
        self.waited = True
        return self.trajectories

    def abort(self) -> int:
        assert not self.waited
        return len(self.trajectories)


@dataclass
class RecordingSampler:
    """Stands for the sampler: records what was requested."""

    every: int
    batches: list[Batch] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def sample(self, prompts: list[Prompt], group_size: int, step: int) -> Batch:
        assert group_size == SIBLINGS
        self.steps.append(step)
        self.batches.append(Batch([t for p in prompts for t in answers(p, self.every)], self))
        return self.batches[-1]


@dataclass
class Verdicts:
    batch: Batch
    seconds: float = 0.25


class ModeGrader:
    """Stands for the grader: only thinking is right."""

    def ask(self, batch: Batch) -> Verdicts:
        return Verdicts(batch)

    def score(self, verdicts: Verdicts) -> list[Group]:
        trajectories = verdicts.batch.wait()
        found = [Verdict(Outcome.CORRECT if t.mode == Mode.THINK else Outcome.WRONG, "", 0.0) for t in trajectories]
        return group_trajectories(trajectories, found, RewardConf())


def fill(every: int, **dynamic_sampling: Any) -> tuple[Any, RecordingSampler, PromptStream]:
    conf = RolloutConf(
        group_size=SIBLINGS, prompts_per_step=WANTED, dynamic_sampling=DynamicSamplingConf(**dynamic_sampling)
    )
    stream = PromptStream(None, lambda text: np.arange(5), DataConf(arithmetic=ArithmeticConf()), 0)
    sampler: Any = RecordingSampler(every)
    grader: Any = ModeGrader()
    groups = grader.score(Verdicts(Batch([t for p in stream.take(WANTED) for t in answers(p, every)], sampler)))
    return DynamicSampling(conf, stream, sampler, grader).fill(groups, 7, grader.score), sampler, stream


def test_without_rounds_nothing_is_requested() -> None:
    filled, sampler, stream = fill(every=2)
    assert filled.learnt is filled.judged and len(filled.learnt) == WANTED
    assert not sampler.batches and stream.position == WANTED
    assert (filled.rounds, filled.asked, filled.given_up) == (0, 0, 0)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("abort", [False, True])
def test_the_batch_is_filled_up_and_no_informative_group_is_lost(every: int, abort: bool) -> None:
    filled, sampler, stream = fill(every, rounds=10, abort=abort)
    assert len(filled.learnt) >= WANTED and all(group.informative for group in filled.learnt)
    taken = [group.prompt.uid for group in filled.judged]
    assert len(set(taken)) == len(taken)
    assert [g.prompt.uid for g in filled.learnt] == [
        g.prompt.uid for g in filled.judged if informative(g.prompt, every)
    ]
    assert stream.position == WANTED + filled.asked and set(sampler.steps) <= {7}
    assert len(filled.judged) * SIBLINGS + filled.given_up == stream.position * SIBLINGS


def test_aborting_keeps_the_order_of_the_prompts() -> None:
    """What is given up lies behind the last group that was needed, whichever would have finished first."""
    filled, sampler, _ = fill(every=2, rounds=5, factor=2.0, abort=True)
    assert filled.given_up > 0 and len(filled.learnt) == WANTED
    assert len(sampler.batches) == WANTED  # requested one by one, so few
    waited = [batch.waited for batch in sampler.batches]
    assert waited == sorted(waited, reverse=True)
    assert all(len(batch.trajectories) == SIBLINGS for batch in sampler.batches)


def test_rounds_are_capped() -> None:
    """No prompt is informative but one: the rounds end, and the batch is what there is."""
    filled, sampler, _ = fill(every=10**6, rounds=3)
    assert filled.rounds == 3 and len(sampler.batches) == 3
    assert all(len(batch.trajectories) == WANTED * SIBLINGS for batch in sampler.batches)  # a round is a batch at most
    assert len(filled.learnt) == 1 and len(filled.judged) == 4 * WANTED


def test_nothing_is_requested_if_every_group_is_informative() -> None:
    filled, sampler, _ = fill(every=1, rounds=3)
    assert not sampler.batches and len(filled.learnt) == len(filled.judged) == WANTED


def test_seconds_and_tokens_of_the_rounds_are_counted() -> None:
    rollout = RolloutConf(group_size=SIBLINGS, prompts_per_step=WANTED, dynamic_sampling=DynamicSamplingConf(rounds=1))
    stream = PromptStream(None, lambda text: np.arange(5), DataConf(arithmetic=ArithmeticConf()), 0)
    sampler: Any = RecordingSampler(2)
    grader: Any = ModeGrader()
    queue = BatchQueue(Config(rollout=rollout), stream, sampler, grader)
    batch = queue.next(0)
    assert batch.rounds == 1 and len(batch.trajectories) == WANTED * SIBLINGS < len(batch.judged) * SIBLINGS
    assert (batch.sampling_s, batch.tokens, batch.grading_s) == (1.0, 20, 0.5)
    assert {span.kind for span in queue.spans.take()} == {FOR_TRAJECTORIES, FOR_VERDICTS}
