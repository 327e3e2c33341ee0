"""Outcome and mode -> reward, by `RewardConf`.

In: a verdict. Out: a float: correct short 1, correct think 1 - gamma, anything else what is configured (-1).
Must not know: texts, groups, advantages.
"""

from __future__ import annotations

from conf.schema import RewardConf
from reward.verdict import Outcome, Verdict
from rollout.mode import Mode


def reward(conf: RewardConf, outcome: Outcome, mode: Mode | None) -> float:
    """Raises ValueError for TIMED_OUT and CRASHED: they are no verdicts and have no reward."""
    if outcome is Outcome.CORRECT:
        if mode is None:
            raise ValueError("a response without a mode cannot be CORRECT")
        return conf.correct_short if mode is Mode.SHORT else conf.correct_think
    if not outcome.judged:
        raise ValueError(f"{outcome.name} has no reward: its trajectory must leave the group")
    return {
        Outcome.WRONG: conf.wrong,
        Outcome.CUT_OFF: conf.cut_off,
        Outcome.NO_ANSWER: conf.no_answer,
        Outcome.NO_MODE: conf.no_mode,
    }[outcome]


def reward_of(conf: RewardConf, verdict: Verdict, mode: Mode | None) -> float:
    """The reward that a person's own function gave, else the scheme's."""
    return verdict.reward if verdict.reward is not None else reward(conf, verdict.outcome, mode)
