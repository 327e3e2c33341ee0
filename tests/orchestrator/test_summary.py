"""The result figures against numbers worked out by hand."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

import pytest

from conf.choices import Task
from conf.schema import Config
from orchestrator.tracking.summary import doubts, has_goals, interval, summarize_evaluation, wilson
from tests.helpers.runs import level_figures as figures

EVALUATION: dict[str, Any] = {
    "levels": ["2", "9"],
    "weights": {"2": 0.8, "9": 0.2},
    "questions_per_level": 512,
    "temperature": 1.0,
    "models": {
        "warmup": {
            "free": {"2": figures(0.9, 0.6, 0.5, 10), "9": figures(0.6, 0.1, 0.5, 50)},
            "think": {"2": figures(1.0, 0.5, 1, 16), "9": figures(0.9, 0.35, 1, 100)},
            "short": {"2": figures(0.9, 0.8, 0, 5), "9": figures(0.3, -0.4, 0, 5)},
        },
        "final": {
            "free": {"2": figures(0.99, 0.96, 0.05, 6), "9": figures(0.92, 0.37, 0.95, 96)},
            "think": {"2": figures(1.0, 0.5, 1, 17), "9": figures(0.94, 0.41, 1, 101)},
            "short": {"2": figures(0.99, 0.98, 0, 5), "9": figures(0.4, -0.2, 0, 5)},
        },
    },
    "rewards": {"correct_short": 1, "correct_think": 0.5, "wrong": -1},
}


def met(summary: dict[str, Any]) -> list[bool | None]:
    return [check["met"] for check in summary["checks"]]


def test_figures_equal_those_worked_out_by_hand() -> None:
    summary = summarize_evaluation(EVALUATION)
    assert summary["regret"] == pytest.approx(0.8 * (0.98 - 0.96) + 0.2 * (0.41 - 0.37))  # 0.024
    assert summary["accuracy"] == pytest.approx(0.8 * 0.99 + 0.2 * 0.92)
    assert summary["accuracy_vs_always_think"] == pytest.approx(0.976 - 0.98)
    assert summary["tokens"] == pytest.approx(24.0)
    assert summary["tokens_vs_best_mode"] == pytest.approx(24.0 / (0.8 * 5 + 0.2 * 101))
    assert summary["tokens_vs_always_think"] == pytest.approx(24.0 / (0.8 * 16 + 0.2 * 100))
    assert summary["think_rate"] == pytest.approx(0.8 * 0.05 + 0.2 * 0.95)
    assert summary["both_kinds"] is True
    assert summary["mix"]["warmup"]["short"]["accuracy"] == pytest.approx(0.8 * 0.9 + 0.2 * 0.3)
    assert summary["mix"]["final"]["free"]["n"] == pytest.approx(1 / (0.64 / 512 + 0.04 / 512))
    easy, hard = summary["levels"]
    assert (easy["better"], easy["should"], easy["obeys"]) == ("short", "short", True)
    assert (hard["better"], hard["should"], hard["obeys"]) == ("think", "think", True)
    assert easy["gap"] == pytest.approx(0.48) and hard["gap"] == pytest.approx(-0.61)
    # all met but the saving: 24 of 32.8 tokens is 73 %
    assert met(summary) == [True, True, True, True, True, True, True, False]
    assert [set(check) for check in summary["checks"]] == [{"name", "value", "text", "goal", "met"}] * 8
    assert summary["checks"][5]["text"] == "−0.4 points"


def test_a_policy_may_choose_freely_where_the_modes_are_close() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["models"]["final"]["short"]["9"]["reward"] = 0.3  # 0.11 less than thinking
    evaluation["models"]["final"]["free"]["9"]["think_rate"] = 0.5
    summary = summarize_evaluation(evaluation)
    hard = summary["levels"][1]
    assert (hard["better"], hard["should"], hard["obeys"]) == ("think", None, None)
    assert summary["both_kinds"] is False
    assert met(summary)[1:4] == [True, None, False]


def test_figures_at_their_limit_meet_the_goal_and_a_gap_of_two_tenths_is_clear() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    final = evaluation["models"]["final"]
    final["think"]["2"]["reward"], final["short"]["2"]["reward"] = 0.5, 0.7  # 0.7 - 0.5 < 0.2 in floating point
    final["free"]["2"] |= {"think_rate": 0.10, "reward": 0.65}
    final["think"]["9"]["reward"], final["free"]["9"]["reward"] = 0.41, 0.36
    summary = summarize_evaluation(evaluation)
    assert summary["levels"][0]["should"] == "short" and summary["levels"][0]["obeys"] is True
    assert summary["regret"] == pytest.approx(0.05) and met(summary)[0] is True


def test_forced_mode_obedience_is_that_of_the_worst_level() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["models"]["final"]["free"]["2"]["think_rate"] = 0.11
    evaluation["models"]["final"]["free"]["9"]["think_rate"] = 0.89
    summary = summarize_evaluation(evaluation)
    assert [level["obeys"] for level in summary["levels"]] == [False, False]
    assert met(summary)[1:3] == [False, False]


def test_figures_that_were_not_measured_are_none_and_meet_no_goal() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    del evaluation["models"]["warmup"]
    del evaluation["models"]["final"]["short"]["9"]
    summary = summarize_evaluation(evaluation)
    assert summary["accuracy_vs_always_think"] is None and summary["tokens_vs_always_think"] is None
    assert summary["regret"] is None and summary["tokens_vs_best_mode"] is None
    assert met(summary) == [None, True, None, False, True, None, None, None]
    empty = summarize_evaluation({})
    assert empty["accuracy"] is None and met(empty) == [None] * 8


def test_level_weights_are_normalized_and_equal_by_default() -> None:
    counts = summarize_evaluation(EVALUATION | {"weights": {2: 8, 9: 2}})
    assert counts["accuracy"] == pytest.approx(0.976)
    assert summarize_evaluation(EVALUATION | {"weights": {}})["accuracy"] == pytest.approx((0.99 + 0.92) / 2)


def test_wilson_intervals_equal_published_values() -> None:
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1.0, 512)[1] == 1.0
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_doubts_name_the_levels_that_thinking_does_not_solve() -> None:
    measured: dict[str, Any] = {
        "think": {"2": {"accuracy": 1.0}, "7": {"accuracy": 0.4}, "8": {"accuracy": None}},
        "short": {},
    }
    (doubt,) = doubts(measured)
    assert doubt.startswith("level 7: thinking is right on 40%") and "warmup.steps" in doubt
    assert doubts({}) == []
    (doubt,) = doubts({"think": {"all": {"accuracy": 0.01}, "5": {"accuracy": 0.4}}}, goals=False)
    assert doubt.startswith("thinking is right on 1%") and "warmup.path" in doubt and "warmup.steps" not in doubt


@pytest.mark.parametrize(
    ("thinks", "no_mode", "said"),
    [
        (0.01, 0.0, "mode think is chosen in 1.0% of answers only before training; "),
        (0.99, 0.0, "mode short is chosen in 1.0% of answers only before training; "),
        (0.6, 0.39, "mode short is chosen in 1.0% of answers only before training (39% begin without a control token)"),
        (0.03, 0.0, ""),
        (0.97, 0.0, ""),
    ],
)
def test_doubts_name_a_mode_that_is_almost_never_chosen(thinks: float, no_mode: float, said: str) -> None:
    """Over all answers: a level on which the model never thinks is as it should be."""
    cell = {"n": 100, "think_rate": thinks, "no_mode": no_mode}
    found = doubts({"free": {"2": cell}})
    assert [doubt.startswith(said) for doubt in found] == [True] * bool(said)
    levels: dict[str, Any] = {
        "2": {"n": 50, "think_rate": 0.0},
        "8": {"n": 50, "think_rate": 1.0},
        "9": {"n": 0, "think_rate": None},
    }
    assert doubts({"free": levels}) == [] and doubts({"free": {"all": {"n": 0, "think_rate": None}}}) == []


def test_goals_belong_to_the_quickstart_alone() -> None:
    conf = Config()
    assert has_goals(asdict(conf)) and has_goals({"data": {"path": None}})  # an old, short one: defaults
    others = [
        replace(conf, data=replace(conf.data, path="own.jsonl")),
        replace(conf, data=replace(conf.data, arithmetic=replace(conf.data.arithmetic, levels=[2, 4, 6, 8]))),
        replace(conf, data=replace(conf.data, task=Task.register)),
        replace(conf, model=replace(conf.model, path="/models/own")),
        replace(conf, reward=replace(conf.reward, function="own:score")),
        replace(conf, reward=replace(conf.reward, correct_think=0.8)),
        replace(conf, evaluate=replace(conf.evaluate, temperature=0.6)),
    ]
    assert not any(has_goals(asdict(other)) for other in others) and not has_goals({})
    assert has_goals({"data": {"task": "arithmetic"}}) and not has_goals({"data": {"task": "register"}})


def test_without_goals_nothing_is_met_or_missed() -> None:
    summary = summarize_evaluation(EVALUATION, goals=False)
    assert met(summary) == [None] * 8 and {check["goal"] for check in summary["checks"]} == {""}
    assert summary["checks"][0]["value"] == summarize_evaluation(EVALUATION)["regret"]


def test_a_model_that_is_never_right_has_no_regret_and_meets_no_goal() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    for way in ("free", "think", "short"):
        for level in ("2", "9"):
            evaluation["models"]["final"][way][level] |= {"accuracy": 0.0, "reward": -1.0}
    summary = summarize_evaluation(evaluation)
    assert summary["regret"] is None and summary["tokens_vs_best_mode"] is None
    assert summary["checks"][0]["met"] is None and summary["checks"][0]["text"] == "–"


def test_intervals_are_over_problems_not_over_answers() -> None:
    assert interval({"accuracy": 0.5, "n": 40, "problems": 10}) == wilson(0.5, 10)
    assert interval({"accuracy": 0.5, "n": 40}) == wilson(0.5, 40)  # as older runs wrote it
    assert interval({"accuracy": None, "n": 0, "problems": 0}) is None


def test_with_more_modes_the_best_of_those_that_think_is_held_against_short() -> None:
    evaluation = copy.deepcopy(EVALUATION)
    for ways in evaluation["models"].values():  # in the order in which they are asked
        short = ways.pop("short")
        ways["medium"] = {"2": figures(0.99, 0.7, 1, 9), "9": figures(0.93, 0.55, 1, 40)}
        ways["short"] = short
    easy, hard = summarize_evaluation(evaluation)["levels"]
    assert (easy["better"], easy["should"], easy["obeys"]) == ("short", "short", True)
    assert easy["gap"] == pytest.approx(0.98 - 0.7)
    assert (hard["better"], hard["should"], hard["obeys"]) == ("medium", "think", True)
    assert hard["regret"] == pytest.approx(0.55 - 0.37) and hard["best_tokens"] == 40
    assert hard["rewards"] == {"think": 0.41, "medium": 0.55, "short": -0.2}
    free = {"2": {"n": 4, "think_rate": 0.5, "no_mode": 0.0}}
    rates = {"mode_rate/think": 0.49, "mode_rate/medium": 0.01, "mode_rate/short": 0.5}
    (said,) = doubts({"free": {"2": free["2"] | rates}})
    assert said.startswith("mode medium is chosen in 1.0% of answers only")
    assert not doubts({"free": free})
