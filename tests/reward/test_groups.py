"""Groups: by prompt, in order of first appearance; unjudged responses leave and are counted."""

from __future__ import annotations

import numpy as np
import pytest

from conf.schema import RewardConf
from reward.group import group_trajectories, repeated_timeouts
from reward.verdict import Failure, Outcome, Verdict
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory


def prompt(uid: str) -> Prompt:
    return Prompt(uid, "1+1", np.zeros(2, np.int32), "2", "test")


def trajectory(of: Prompt, sibling: int, mode: Mode | None = Mode.SHORT) -> Trajectory:
    return Trajectory(
        of, sibling, np.zeros(3, np.int32), np.zeros(3, np.float32), mode, Finish.STOP, np.zeros(3, np.int32)
    )


def verdict(outcome: Outcome, reward: float | None = None) -> Verdict:
    return Verdict(outcome, None, 0.0, reward)


def test_siblings_are_grouped_in_order_of_first_appearance() -> None:
    b, a = prompt("b"), prompt("a")
    given = [trajectory(b, 0), trajectory(a, 0, Mode.THINK), trajectory(b, 1), trajectory(a, 1)]
    outcomes = [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT]
    groups = group_trajectories(given, [verdict(outcome) for outcome in outcomes], RewardConf())
    assert [group.prompt.uid for group in groups] == ["b", "a"]
    assert [[one.sibling for one in group.trajectories] for group in groups] == [[0, 1], [0, 1]]
    assert [group.rewards.tolist() for group in groups] == [[1.0, -1.0], [0.5, 1.0]]
    assert all(group.rewards.dtype == np.float32 and group.informative for group in groups)


def test_unjudged_siblings_leave_their_group_and_are_counted() -> None:
    one = prompt("one")
    given = [trajectory(one, sibling) for sibling in range(4)]
    outcomes = [Outcome.TIMED_OUT, Outcome.CORRECT, Outcome.RAISED, Outcome.WRONG]
    (group,) = group_trajectories(given, [verdict(outcome) for outcome in outcomes], RewardConf())
    assert [one.sibling for one in group.trajectories] == [1, 3]
    assert [one.outcome for one in group.verdicts] == [Outcome.CORRECT, Outcome.WRONG]
    assert group.rewards.tolist() == [1.0, -1.0]
    assert [one.outcome for one in group.failed] == [Outcome.TIMED_OUT, Outcome.RAISED] and group.unjudged == 2


def test_an_answer_that_times_out_for_several_siblings_may_count_as_none() -> None:
    """Not one that timed out once, and not other answers: those leave the group as ever."""
    one, failure = prompt("one"), Failure("no end after 5 s")
    given = [trajectory(one, sibling) for sibling in range(5)]
    late = [Verdict(Outcome.TIMED_OUT, answer, 5.0, failure=failure) for answer in ("9^9^9^9", "8^8^8^8", "9^9^9^9")]
    verdicts = [late[0], verdict(Outcome.CORRECT), *late[1:], verdict(Outcome.RAISED)]
    assert repeated_timeouts(verdicts) == [late[0], late[2]] and repeated_timeouts(verdicts, 3) == []
    for least in (None, 3):
        (group,) = group_trajectories(given, verdicts, RewardConf(timeouts_as_no_answer=least))
        assert [sibling.sibling for sibling in group.trajectories] == [1] and group.unjudged == 4
    (group,) = group_trajectories(given, verdicts, RewardConf(timeouts_as_no_answer=2, no_answer=-0.5))
    assert [sibling.sibling for sibling in group.trajectories] == [0, 1, 3]
    assert group.rewards.tolist() == [-0.5, 1.0, -0.5] and group.verdicts[0].failure == failure
    assert [one.outcome for one in group.failed] == [Outcome.TIMED_OUT, Outcome.RAISED]


def test_a_group_without_verdicts_is_kept_empty() -> None:
    one = prompt("one")
    (group,) = group_trajectories([trajectory(one, 0)], [verdict(Outcome.CRASHED)], RewardConf())
    assert (group.trajectories, group.verdicts, group.rewards.shape, group.unjudged) == ((), (), (0,), 1)
    assert not group.informative


def test_rewards_of_the_users_function_are_used() -> None:
    one = prompt("one")
    given = [trajectory(one, 0, None), trajectory(one, 1)]
    (group,) = group_trajectories(
        given, [verdict(Outcome.CORRECT, 0.25), verdict(Outcome.WRONG, -3.0)], RewardConf(correct_short=9)
    )
    assert group.rewards.tolist() == [0.25, -3.0]


def test_every_trajectory_needs_a_verdict() -> None:
    assert group_trajectories([], [], RewardConf()) == []
    with pytest.raises(ValueError, match="1 trajectories but 0 verdicts"):
        group_trajectories([trajectory(prompt("a"), 0)], [], RewardConf())


def test_a_response_above_its_modes_cap_keeps_its_outcome_but_not_its_reward() -> None:
    one = prompt("one")
    zeros = np.zeros(4, np.int32)
    long = Trajectory(one, 1, zeros, np.zeros(4, np.float32), Mode.SHORT, Finish.STOP, zeros)
    conf = RewardConf(max_tokens_short=3, cut_off=-0.5)  # `trajectory` has three tokens
    (group,) = group_trajectories([trajectory(one, 0), long], [verdict(Outcome.CORRECT)] * 2, conf)
    assert group.rewards.tolist() == [1.0, -0.5] and group.informative
    assert all(found.correct for found in group.verdicts)
