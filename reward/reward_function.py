"""Outcome, mode and length -> reward, by `RewardConf`.

In: a verdict and its response's length. Out: a float: correct short 1, correct think 1 - gamma, anything else as
configured (-1). A response longer than its mode's cap is rewarded as if cut off there, whatever its answer; its outcome
does not change, so accuracy keeps its meaning. Must not know: texts, groups, advantages.
"""

from __future__ import annotations

from conf.schema import RewardConf
from reward.verdict import Outcome, Verdict
from rollout.mode import Mode


def reward(conf: RewardConf, outcome: Outcome, mode: Mode | None, tokens: int = 0) -> float:
    """tokens: of the response, control token included.

    Raises ValueError for RAISED, TIMED_OUT and CRASHED, which are not verdicts and have no reward.
    """
    if not outcome.judged:
        raise ValueError(f"{outcome.name} has no reward: its trajectory must leave the group")
    if outcome is Outcome.FORMAT_ERROR:
        return conf.format_error
    if mode is not None and _too_long(conf, mode, tokens):
        return conf.cut_off
    if outcome is Outcome.CORRECT:
        if mode is None:
            raise ValueError("a response without a mode cannot be CORRECT")
        return conf.correct_short if mode is Mode.SHORT else conf.correct_think
    if outcome is Outcome.WRONG:
        return conf.wrong
    if outcome is Outcome.CUT_OFF:
        return conf.cut_off
    return conf.no_answer if outcome is Outcome.NO_ANSWER else conf.no_mode


def _too_long(conf: RewardConf, mode: Mode, tokens: int) -> bool:
    cap = conf.max_tokens_short if mode is Mode.SHORT else conf.max_tokens_think
    return cap is not None and tokens > cap


def reward_of(conf: RewardConf, verdict: Verdict, mode: Mode | None, tokens: int) -> float:
    """The reward of the user's function if there is one, otherwise `reward`."""
    return verdict.reward if verdict.reward is not None else reward(conf, verdict.outcome, mode, tokens)
