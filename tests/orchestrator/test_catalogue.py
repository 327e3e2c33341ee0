"""The catalogue of metrics: each key has one entry, and each entry a name of its own wherever it goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.report.figures import HEALTH
from orchestrator.tracking.catalogue import LABELS, METRICS, Kind, find, key_of, page, prometheus_name
from orchestrator.tracking.console import COLUMNS, PLAIN
from reward.leakage import CAUSES
from reward.verdict import Outcome


def test_a_pattern_gives_entry_and_labels() -> None:
    found = find("rollout/idle_seconds/asleep/worker/12")
    assert found is not None
    metric, labels = found
    assert metric.key == "rollout/idle_seconds/{reason}/worker/{worker}"
    assert labels == {"reason": "asleep", "worker": "12"}
    assert key_of(metric, labels) == "rollout/idle_seconds/asleep/worker/12"


def test_a_level_may_be_any_text() -> None:
    found = find("think_rate/level/Level 5/hard")
    assert found is not None and found[1] == {"level": "Level 5/hard"}


@pytest.mark.parametrize("key", ["", "think_rate", "tokens/level/2", "outcome/lucky", "rollout/running/worker/x"])
def test_what_is_not_in_the_catalogue_is_not_found(key: str) -> None:
    assert find(key) is None


def test_every_entry_is_found_under_its_own_key_and_exported_under_a_name_of_its_own() -> None:
    for metric in METRICS:
        labels = {label: (LABELS[label] or ("medium" if label == "mode" else "1",))[0] for label in metric.labels}
        assert find(key_of(metric, labels)) == (metric, labels), metric.key
    names = Counter(map(prometheus_name, METRICS))
    assert max(names.values()) == 1, names.most_common(1)


def test_names_say_what_kind_a_figure_is() -> None:
    for metric in METRICS:
        assert prometheus_name(metric).endswith("_total") == (metric.kind is Kind.counter), metric.key
        assert bool(metric.buckets) == (metric.kind is Kind.histogram), metric.key
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.key


def test_help_is_one_sentence() -> None:
    for metric in METRICS:
        assert metric.help.endswith(".") and ". " not in metric.help and "\n" not in metric.help, metric.key


def test_labels_are_bounded_by_the_values_that_exist() -> None:
    assert LABELS["outcome"] == tuple(outcome.value for outcome in Outcome)
    assert LABELS["cause"] == CAUSES


def test_the_page_is_the_catalogues() -> None:
    path = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert path.read_text() == page(), "run: python -m orchestrator.tracking.catalogue > docs/metrics.md"


def test_console_and_report_show_what_is_in_the_catalogue() -> None:
    shown = [column[2] for column in COLUMNS] + [row[1] for row in PLAIN]
    shown += [key for _, pairs, _ in HEALTH for _, key in pairs]
    assert not [key for key in shown if find(key) is None]
