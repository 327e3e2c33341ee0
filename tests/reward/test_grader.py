"""Verdicts are aligned with their responses, however these were spread over rollout workers and reward actors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import RewardConf
from reward.grader import Grader
from reward.verdict import Outcome, RewardResult, Verdict
from rollout.mode import Mode
from rollout.request import RolloutRequest, RolloutResult, SamplingParams
from rollout.sampler import Sampler
from tests.helpers.handles import LocalHandle
from tests.helpers.prompts import make_prompts


class Worker:
    """Answers a request with one token each, which says of which prompt and sibling it is; gives up every `lost`-th."""

    def __init__(self, lost: int):
        self.lost = lost

    def sample(self, request: RolloutRequest) -> RolloutResult:
        ids = [100 * int(request.prompts[p].uid.rsplit("/", 1)[1]) + sibling for p, sibling in request.siblings]
        lengths = np.array([int((i + 1) % self.lost > 0) for i in range(len(ids))], np.int32)
        kept = np.array([one for one, length in zip(ids, lengths, strict=True) if length], np.int32)
        zeros = np.zeros(len(kept), np.int32)
        modes, finishes = (Mode.SHORT,) * len(ids), np.zeros(len(ids), np.uint8)
        return RolloutResult(
            lengths, kept, zeros.astype(np.float32), zeros, modes, finishes, False, len(kept), 0.0, 1.0
        )


class Local:
    def __init__(self, seconds: float):
        self.seconds = seconds

    def grade_request(self, sampled: RolloutResult, prompts: list[Any], first: int) -> RewardResult:
        found = sampled.trajectories(prompts, range(len(prompts)), first)
        said = [None if t is None else Verdict(Outcome.CORRECT, f"{t.prompt.uid} {t.token_ids[0]}", 0.0) for t in found]
        return RewardResult(said, self.seconds)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(2, 6))
def test_verdicts_are_aligned_with_their_trajectories(
    prompts: int, group: int, workers: int, actors: int, lost: int
) -> None:
    sampler = Sampler([LocalHandle(Worker(lost)) for _ in range(workers)], SamplingParams(1.0, 1.0, 8))
    grader = Grader([LocalHandle(Local(1.0 + i)) for i in range(actors)], RewardConf())
    pending = grader.ask(sampler.sample(make_prompts(prompts), group, 0))
    trajectories, verdicts = pending.batch.wait(), pending.wait()
    assert [v.extracted for v in verdicts] == [f"{t.prompt.uid} {t.token_ids[0]}" for t in trajectories]
    places = [(t.prompt.uid, t.sibling) for t in trajectories]
    assert places == sorted(places) and len(places) >= prompts * group // 2
    assert [t.token_ids[0] for t in trajectories] == [100 * int(uid.rsplit("/", 1)[1]) + s for uid, s in places]
    assert (pending.seconds > 0) == bool(prompts)
    kept = [group.prompt.uid for group in grader.score(pending)]
    assert kept == list(dict.fromkeys(uid for uid, _ in places))


def test_a_samplers_error_is_raised_before_the_reward_actors() -> None:
    """Before the error of the reward actor, which waits for the same result."""

    class Late:
        def __init__(self, error: str):
            self.error = error

        def wait(self) -> Any:
            raise RuntimeError(self.error)

        def done(self) -> bool:
            return True

    class Actor:
        def __init__(self, error: str):
            self.error = error

        def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Late:
            return Late(self.error)

    sampler = Sampler([Actor("the sampler's own failure")], SamplingParams(1.0, 1.0, 8))
    grader = Grader([Actor("reward actor 0 (grade_request): no argument")], RewardConf())
    with pytest.raises(RuntimeError, match="the sampler's own failure"):
        grader.score(grader.ask(sampler.sample(make_prompts(2), 2, 0)))
