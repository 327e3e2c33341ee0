"""Rewards: every outcome and length, from configuration alone."""

from __future__ import annotations

import pytest

from conf.schema import RewardConf
from reward.reward_function import reward, reward_of
from reward.verdict import Outcome, Verdict
from rollout.mode import MODES, Mode


def test_the_papers_rewards_are_the_default() -> None:
    conf = RewardConf()
    assert reward(conf, Outcome.CORRECT, Mode.SHORT) == 1.0
    assert reward(conf, Outcome.CORRECT, Mode.THINK) == 0.5
    for mode in (*MODES, None):
        for outcome in (Outcome.WRONG, Outcome.CUT_OFF, Outcome.NO_ANSWER, Outcome.NO_MODE, Outcome.FORMAT_ERROR):
            assert reward(conf, outcome, mode) == -1.0


def test_each_outcome_has_its_own_setting() -> None:
    conf = RewardConf(correct_short=7, correct_think=6, wrong=5, cut_off=4, no_answer=3, no_mode=2, format_error=1)
    given = [reward(conf, Outcome.CORRECT, mode) for mode in (Mode.SHORT, Mode.THINK)]
    others = (Outcome.WRONG, Outcome.CUT_OFF, Outcome.NO_ANSWER, Outcome.NO_MODE, Outcome.FORMAT_ERROR)
    assert given + [reward(conf, outcome, Mode.THINK) for outcome in others] == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("outcome", [Outcome.RAISED, Outcome.TIMED_OUT, Outcome.CRASHED])
def test_outcomes_without_a_verdict_have_no_reward(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="must leave the group"):
        reward(RewardConf(), outcome, Mode.THINK)


def test_the_users_reward_is_not_changed() -> None:
    verdict = Verdict(Outcome.CORRECT, None, 0.0, reward=0.25)
    assert reward_of(RewardConf(), verdict, None, 9) == 0.25
    assert reward_of(RewardConf(), Verdict(Outcome.CORRECT, "5", 0.0), Mode.THINK, 9) == 0.5


@pytest.mark.parametrize(
    ("mode", "tokens", "given"),
    [
        (Mode.SHORT, 10, 1.0),
        (Mode.SHORT, 11, -0.7),
        (Mode.THINK, 11, 0.5),
        (Mode.THINK, 100, 0.5),
        (Mode.THINK, 101, -0.7),
    ],
)
def test_a_response_beyond_its_modes_cap_counts_as_cut_off(mode: Mode, tokens: int, given: float) -> None:
    conf = RewardConf(max_tokens_short=10, max_tokens_think=100, cut_off=-0.7)
    assert reward(conf, Outcome.CORRECT, mode, tokens) == given
    for outcome, below in ((Outcome.WRONG, -1.0), (Outcome.NO_ANSWER, -1.0), (Outcome.CUT_OFF, -0.7)):
        assert reward(conf, outcome, mode, tokens) == (-0.7 if given == -0.7 else below)


def test_a_cap_applies_to_its_mode_only() -> None:
    assert reward(RewardConf(max_tokens_short=1), Outcome.CORRECT, Mode.THINK, 999) == 0.5
    assert reward(RewardConf(max_tokens_think=1), Outcome.CORRECT, Mode.SHORT, 999) == 1.0
    capped = RewardConf(max_tokens_short=1, max_tokens_think=1, cut_off=-9)
    assert reward(capped, Outcome.NO_MODE, None, 999) == -1.0
    assert reward(capped, Outcome.FORMAT_ERROR, Mode.SHORT, 999) == -1.0
    assert reward_of(capped, Verdict(Outcome.CORRECT, None, 0.0, reward=0.25), Mode.SHORT, 999) == 0.25
    with pytest.raises(ValueError, match="must leave the group"):
        reward(capped, Outcome.TIMED_OUT, Mode.SHORT, 999)
