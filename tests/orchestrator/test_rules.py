"""The rules: each fires on a run that shows its fault, in words with the run's figures, and clears when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.dashboards.cases import FAULTS, HEALTHY, SETTINGS
from orchestrator.tracking.conditions import Condition, Counted, Formula, Metric, Seen, Setting
from orchestrator.tracking.rules import RULES, advisories

NOW = 1_000_000.0

WORDS = {  # what a rule's advisory says of its case
    "ModeCollapseToShort": "Only 0.4 % of the answers think",
    "ModeCollapseToThink": "99.6 % of the answers think",
    "ModeAbandoned": "has only 0.6 % of the answers",
    "NothingToLearn": "97.0 % of the prompts give no gradient",
    "SamplersIdle": "waited for answers during 77.5 % of a step, and the samplers worked 35.0 % of it",
    "LearnerIdle": "took 67.5 % of a step, and its ranks worked 30.0 % of it",
    "StalenessAtBound": "as old as run.max_staleness=2 allows, and the samplers work only 70.0 % of the time",
    "GraderTimeouts": "Grading timed out on 37.5 % of the answers (180)",
    "Mismatch": "KL 0.0340 nats a token",
    "UpdatesSkipped": "skipped for a non-finite loss or gradient: 10.",
    "WorkerRestarted": "died and were started again: 20.",
    "RewardActorRestarted": "Reward actors that died and were started again: 20.",
    "LearnerRestarted": "lost, and all of them started again: 20.",
    "DiskLow": "4.50 GiB are left",
    "TrackerFailed": "20 failures",
}
RESTARTED = {"WorkerRestarted", "RewardActorRestarted", "LearnerRestarted"}
COUNTS = {"GraderTimeouts", "UpdatesSkipped", "TrackerFailed"} | RESTARTED  # rules on sums over the last steps


def run(*faults: Mapping[str, float | None], before: int = 30) -> list[dict[str, Any]]:
    """The records of healthy steps, then one for each of `faults`; the last step ended at NOW."""
    steps: list[dict[str, Any]] = [{**HEALTHY}] * before + [{**HEALTHY, **fault} for fault in faults]
    count = len(steps)
    return [step | {"step": at, "time": NOW - 40.0 * (count - at)} for at, step in enumerate(steps, 1)]


def names(records: list[dict[str, Any]], config: dict[str, Any] | None = None, now: float | None = NOW) -> list[str]:
    return [one.name for one in advisories(records, SETTINGS if config is None else config, now)]


def test_a_healthy_run_gives_no_advice() -> None:
    assert names(run()) == []
    assert names([]) == [] and names(run(before=3)) == []


def test_counts_are_said_from_the_first_step_on() -> None:
    assert names(run(FAULTS["WorkerRestarted"], before=2)) == ["WorkerRestarted"]


def test_every_rule_has_its_case() -> None:
    assert {rule.name for rule in RULES} == {*FAULTS} == {*WORDS, "NoProgress"}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", WORDS)
def test_a_rule_fires_after_its_steps_and_clears(name: str) -> None:
    (rule,), fault = (one for one in RULES if one.name == name), FAULTS[name]
    assert name not in names(run(*[fault] * (0 if name in COUNTS else rule.steps - 1)))
    (found,) = advisories(run(*[fault] * rule.steps), SETTINGS, NOW)
    assert (found.name, found.severity, found.step) == (name, rule.severity, 30 + rule.steps)
    assert WORDS[name] in found.text and "{" not in found.text
    assert names(run(*[fault] * rule.steps, *[{}] * (rule.steps if name in COUNTS else 1))) == []


@pytest.mark.parametrize("name", sorted(COUNTS - {"GraderTimeouts"}))
def test_a_single_event_is_told_for_a_while(name: str) -> None:
    (rule,) = (one for one in RULES if one.name == name)
    assert names(run(FAULTS[name], *[{}] * (rule.steps - 1))) == [name]
    assert names(run(FAULTS[name], *[{}] * rule.steps)) == []


def test_a_few_timeouts_are_no_advisory() -> None:
    assert names(run(*[{"reward/answers/timed_out": 2.0}] * 4, {})) == ["GraderTimeouts"]
    assert names(run({"reward/answers/timed_out": 4.0}, *[{}] * 4)) == []


@pytest.mark.parametrize("name", WORDS)
def test_steps_without_the_figure_neither_fire_nor_fail(name: str) -> None:
    assert name not in names(run(*[dict.fromkeys(FAULTS[name])] * 30))  # None: nothing to average
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
    collapsed = run(*[FAULTS["ModeCollapseToShort"]] * 10)
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
    both = FAULTS["Mismatch"] | FAULTS["ModeCollapseToThink"]
    assert names(run(*[both] * 10)) == ["ModeCollapseToThink", "Mismatch"]


def test_quantities_are_none_where_something_is_missing() -> None:
    seen = Seen({"a": 6.0, "b": 0.0, "c": None}, [{"n": 2}, {"n": None}, {"n": 3}], {}, {"run": {"seed": 7}}, None)
    assert seen.value(Formula(Metric("a"), "/", 4.0)) == 1.5
    assert seen.value(Formula(Metric("a"), "/", Metric("b"))) is None
    assert seen.value(Formula(Metric("a"), "+", Metric("c"))) is None
    assert seen.value(Formula(Metric("a"), "*", Metric("c", missing=0.5))) == 3.0
    assert seen.value(Counted("n")) == 5.0 and seen.value(Counted("m")) is None
    assert seen.value(Setting("run.seed", "")) == 7.0 and seen.value(Setting("run.steps", "")) == 100.0
    assert seen.meets(Condition(Metric("a"), ">=", 6.0)) and not seen.meets(Condition(Metric("c"), "<", 6.0))


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES:
        for text in (rule.words, rule.meaning, rule.action):
            assert text.endswith(".") and "  " not in text, rule.name
        assert rule.steps >= 1 and rule.minutes >= 0 and rule.conditions
