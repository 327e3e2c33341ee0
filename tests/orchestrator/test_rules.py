"""The rules: each fires on a run that shows its fault, in words with the run's figures, and clears when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.tracking.conditions import Condition, Counted, Formula, Metric, Seen, Setting
from orchestrator.tracking.rules import RULES, advisories

HEALTHY = {
    "seconds/step": 40.0,
    "seconds/rollout": 22.0,
    "seconds/reward": 1.0,
    "seconds/learner": 15.0,
    "weight_sync/seconds": 1.0,
    "busy/rollout": 0.9,
    "busy/learner": 0.38,
    "think_rate/all": 0.4,
    "groups/dropped_share": 0.3,
    "staleness/max": 2,
    "mismatch/kl": 0.0004,
    "skipped_updates": 0,
}
ASYNCHRONOUS = {"run": {"max_staleness": 2}}
NOW = 1_000_000.0

# rule -> what a faulty step has instead, and what its advisory says
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "ModeCollapseToShort": ({"think_rate/all": 0.004}, "Only 0.4 % of the answers think"),
    "ModeCollapseToThink": ({"think_rate/all": 0.996}, "99.6 % of the answers think"),
    "NothingToLearn": ({"groups/dropped_share": 0.97}, "97.0 % of the prompts give no gradient"),
    "SamplersIdle": ({"seconds/rollout": 30.0, "busy/rollout": 0.35},
                     "waited for answers during 77.5 % of a step, and the samplers worked 35.0 % of it"),
    "LearnerIdle": ({"weight_sync/seconds": 12.0, "busy/learner": 0.3},
                    "took 67.5 % of a step, and its ranks worked 30.0 % of it"),
    "StalenessAtBound": ({"busy/rollout": 0.7},
                         "as old as run.max_staleness=2 allows, and the samplers work only 70.0 % of the time"),
    "Mismatch": ({"mismatch/kl": 0.034}, "KL 0.0340 nats a token"),
    "UpdatesSkipped": ({"skipped_updates": 1}, "skipped for a non-finite loss or gradient: 1."),
}  # fmt: skip


def run(*faults: dict[str, Any], before: int = 30) -> list[dict[str, Any]]:
    """The records of healthy steps, then one for each of `faults`; the last step ended at NOW."""
    steps = [HEALTHY] * before + [HEALTHY | fault for fault in faults]
    count = len(steps)
    return [step | {"step": at, "time": NOW - 40.0 * (count - at)} for at, step in enumerate(steps, 1)]


def names(records: list[dict[str, Any]], config: dict[str, Any] | None = None, now: float | None = NOW) -> list[str]:
    return [one.name for one in advisories(records, ASYNCHRONOUS if config is None else config, now)]


def test_a_healthy_run_gives_no_advice() -> None:
    assert names(run()) == []
    assert names([]) == [] and names(run(before=3)) == []


def test_every_rule_has_its_case() -> None:
    assert {rule.name for rule in RULES} == {*FAULTS, "NoProgress"}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_fires_after_its_steps_and_clears(name: str) -> None:
    (rule,) = (one for one in RULES if one.name == name)
    fault, words = FAULTS[name]
    steps = 1 if name == "UpdatesSkipped" else rule.steps  # a counter's sum: one is enough
    assert name not in names(run(*[fault] * (steps - 1)))
    (found,) = advisories(run(*[fault] * steps), ASYNCHRONOUS, NOW)
    assert (found.name, found.severity, found.step) == (name, rule.severity, 30 + steps)
    assert words in found.text and "{" not in found.text
    over = rule.steps if name == "UpdatesSkipped" else 1
    assert names(run(*[fault] * steps, *[{}] * over)) == []


@pytest.mark.parametrize("name", FAULTS)
def test_steps_without_the_figure_neither_fire_nor_fail(name: str) -> None:
    fault, _ = FAULTS[name]
    assert name not in names(run(*[fault | dict.fromkeys(fault)] * 30))  # None: nothing to average
    bare = [{"step": one["step"], "seconds/step": 1.0} for one in run()]
    assert names(bare) == []


def test_silence_is_measured_against_the_runs_own_steps() -> None:
    records, slow = run(), [one | {"seconds/step": 600.0} for one in run()]
    assert names(records, now=NOW + 1190) == [] and names(records, now=NOW + 1210) == ["NoProgress"]
    assert names(slow, now=NOW + 2990) == [] and names(slow, now=NOW + 3010) == ["NoProgress"]
    (found,) = advisories(records, {}, NOW + 1800)
    assert found.text == "Nothing has been recorded for 30 min; the last step took 40 s."
    assert names(records, now=None) == []  # a run that has ended is not silent


def test_a_validation_is_a_sign_of_life_and_no_training_step() -> None:
    validation = {"step": 30, "time": NOW + 1200.0, "validation/accuracy": 0.5}
    assert names([*run(), validation], now=NOW + 1500) == []
    collapsed = run(*[FAULTS["ModeCollapseToShort"][0]] * 10)
    assert names([*collapsed, validation | {"step": 40}]) == ["ModeCollapseToShort"]


def test_the_bound_on_staleness_is_the_runs_own() -> None:
    idle = run(*[{"busy/rollout": 0.7}] * 10)
    assert names(idle, {"run": {"max_staleness": 3}}) == []
    strictly = [one | {"staleness/max": 0} for one in idle]
    assert names(strictly, {}) == []  # the default, 0: strictly on-policy, no bound to reach
    assert names(idle, {"run": {"max_staleness": 2}}) == ["StalenessAtBound"]


def test_a_wait_that_a_step_does_not_have_counts_as_none() -> None:
    """metrics.jsonl has null for a wait that did not occur."""
    fault = {"seconds/rollout": 30.0, "busy/rollout": 0.35, "seconds/reward": None}
    assert names(run(*[fault] * 5)) == ["SamplersIdle"]


def test_several_rules_at_once_come_in_their_order() -> None:
    both = FAULTS["Mismatch"][0] | FAULTS["ModeCollapseToThink"][0]
    assert names(run(*[both] * 10)) == ["ModeCollapseToThink", "Mismatch"]


def test_quantities_are_none_where_something_is_missing() -> None:
    seen = Seen({"a": 6.0, "b": 0.0, "c": None}, [{"n": 2}, {"n": None}, {"n": 3}], {}, {"run": {"seed": 7}}, None)
    assert seen.value(Formula(Metric("a"), "/", 4.0)) == 1.5
    assert seen.value(Formula(Metric("a"), "/", Metric("b"))) is None
    assert seen.value(Formula(Metric("a"), "+", Metric("c"))) is None
    assert seen.value(Formula(Metric("a"), "*", Metric("c", missing=0.5))) == 3.0
    assert seen.value(Counted("n")) == 5.0 and seen.value(Counted("m")) is None
    assert seen.value(Setting("run.seed")) == 7.0 and seen.value(Setting("run.steps")) == 100.0
    assert seen.meets(Condition(Metric("a"), ">=", 6.0)) and not seen.meets(Condition(Metric("c"), "<", 6.0))


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES:
        for text in (rule.words, rule.meaning, rule.action):
            assert text.endswith(".") and "  " not in text, rule.name
        assert rule.steps >= 1 and rule.minutes >= 0 and rule.conditions
