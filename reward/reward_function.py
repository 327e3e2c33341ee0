"""Outcome, mode and length -> reward, by `RewardConf`.

In: a verdict and its response's length. Out: a float: correct short 1, correct think 1 - gamma, in the modes between as
configured or evenly between these, anything else as configured (-1). A response longer than its mode's cap is rewarded
as if cut off there, whatever its answer; its outcome does not change, so accuracy keeps its meaning. Must not know:
texts, groups, advantages.
"""

from __future__ import annotations

from conf.schema import RewardConf
from reward.verdict import Outcome, Verdict
from rollout.mode import Mode, cap_of


def reward(conf: RewardConf, outcome: Outcome, mode: Mode | None, tokens: int = 0) -> float:
    """tokens: of the response, control token included.

    Raises ValueError for RAISED, TIMED_OUT and CRASHED, which are not verdicts and have no reward.
    """
    if not outcome.judged:
        raise ValueError(f"{outcome.name} has no reward: its trajectory must leave the group")
    cap = None if mode is None else cap_of(mode, conf)
    if cap is not None and tokens > cap and outcome is not Outcome.FORMAT_ERROR:
        return conf.cut_off
    if outcome is Outcome.CORRECT:
        if mode is None:
            raise ValueError("a response without a mode cannot be CORRECT")
        return mode.along([conf.correct_short, *conf.correct_between, conf.correct_think])
    return {
        Outcome.WRONG: conf.wrong,
        Outcome.CUT_OFF: conf.cut_off,
        Outcome.NO_ANSWER: conf.no_answer,
        Outcome.NO_MODE: conf.no_mode,
        Outcome.FORMAT_ERROR: conf.format_error,
    }[outcome]


def reward_of(conf: RewardConf, verdict: Verdict, mode: Mode | None, tokens: int) -> float:
    """The reward of the user's function if there is one, otherwise `reward`."""
    return verdict.reward if verdict.reward is not None else reward(conf, verdict.outcome, mode, tokens)
