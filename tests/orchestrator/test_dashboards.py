"""The files for Grafana and Prometheus: as generated, complete, accepted by promtool; each alert fires and clears.

That every query has data on a real run: test_train.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.cli import main
from orchestrator.commands.table import COMMANDS
from orchestrator.dashboards.cases import FAULTS
from orchestrator.dashboards.files import Places, files
from orchestrator.dashboards.panels import DASHBOARDS
from orchestrator.dashboards.promql import entry_of, or_constant, query, series
from orchestrator.tracking import catalogue
from orchestrator.tracking.catalogue import METRICS, Sink
from orchestrator.tracking.conditions import Age, Counted, Formula, Metric, Setting
from orchestrator.tracking.rules import RULES
from tests.helpers.programs import program

DOCKER = Path(__file__).parents[2] / "docker"
NOT_SHOWN = {  # exported metrics without a panel, and why
    "time": "an alert's",
    "outcome/{outcome}": "reward/answers/{outcome} counts them",
    "unjudged": "unjudged/{outcome} has its parts",
    "validation/unjudged": "unjudged.jsonl has them",
    "reward/cache_hits": "reward/cached is their share",
    "reward/seconds/p50": "the histogram reward/seconds",
    "reward/seconds/p95": "the same",
    "reward/seconds/max": "the same",
    "dynamic_sampling/rounds": "dynamic_sampling/groups counts what they requested",
    "learner/tokens": "learner/tokens_per_s is its rate",
}


def boards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (DOCKER / "grafana" / "dashboards").iterdir()}


# ---- the files ----


def test_the_files_are_those_that_the_command_writes() -> None:
    for name, text in files(Places()).items():
        assert (DOCKER / name).read_text() == text, (
            f"docker/{name} is not what the catalogue and the rules give: make dashboards"
        )
    written = {str(path.relative_to(DOCKER)) for top in ("grafana", "prometheus") for path in (DOCKER / top).rglob("*")
               if path.is_file()}  # fmt: skip
    assert written == {*files(Places())}


def test_the_command_writes_them_for_other_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dashboards", f"out={tmp_path}", "discovery=http://head:8265/api/prometheus/sd", "prometheus=http://p:1"])
    assert ended.value.code == 0
    assert {*capsys.readouterr().out.split()} == {str(tmp_path / name) for name in files(Places())}
    scraped = yaml.safe_load((tmp_path / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["http_sd_configs"][0]["url"] == "http://head:8265/api/prometheus/sd"
    assert "file_sd_configs" not in scraped
    (source,) = yaml.safe_load((tmp_path / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://p:1"
    providers = yaml.safe_load((tmp_path / "grafana/provisioning/dashboards/thinkless.yml").read_text())["providers"]
    assert providers[0]["options"]["path"] == str(tmp_path / "grafana" / "dashboards")


def test_another_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dashboards", "folders=x"])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and len(said) == 1 and "folders=x" in said[0]


# ---- dashboards ----


def test_throughput_begins_with_who_waits() -> None:
    panels = boards()["throughput"]["panels"]
    assert panels[0]["title"] == "Who waits?"
    first = [panel["title"] for panel in panels if panel["gridPos"]["y"] == 1]
    assert first == ["Samplers busy", "Learner busy", "Queue", "Staleness", "Push"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_units_descriptions_and_a_place_of_their_own(name: str) -> None:
    board = boards()[name]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in panels:
        assert len(panel["description"]) > 10 and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"] and all(target["expr"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert 'run=~"$run"' in target["expr"] and "{{run}}" in target["legendFormat"], target
            by = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert by <= {label.strip() for labels in kept for label in labels.split(",")}, target


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_have_variables_and_links(name: str) -> None:
    board = boards()[name]
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert {"datasource", "run", "worker", "window"} <= {*variables}
    for variable in ("run", "worker"):
        assert variables[variable]["multi"] and variables[variable]["includeAll"]
        assert variables[variable]["query"].endswith(f", {variable})")
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], board["links"]])))
    assert used <= {*variables}
    assert [link["title"] for link in board["links"]] == ["Thinkless", "Ray", "Live page", "Report"]
    (port,) = (how["default"] for names, how, _ in COMMANDS["watch"].options if names == ("--port",))
    assert variables["pages"]["query"] == f"http://localhost:{port}"
    assert len(board["uid"]) <= 40 and len({one["uid"] for one in boards().values()}) == 3


def lost(given: Any, kept: Any, at: str = "") -> list[str]:
    """Where `kept` is not `given`, what it has besides left aside."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [found for key in given for found in lost(given[key], kept.get(key), f"{at}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [found for k, pair in enumerate(zip(given, kept, strict=True)) for found in lost(*pair, f"{at}[{k}]")]
    return [] if given == kept else [f"{at}: {given!r}, {kept!r}"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_types_know_every_field(name: str) -> None:
    """Of the package that Grafana Labs generates from its schemas: what they do not know is lost on the way."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="needs grafana-foundation-sdk")
    importlib.import_module("grafana_foundation_sdk.cog.plugins").register_default_plugins()  # panels' own options
    encoder = importlib.import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder
    board = boards()[name]
    assert lost(board, json.loads(json.dumps(models.Dashboard.from_json(board), cls=encoder))) == []
    board["panels"][1]["fieldConfig"]["defaults"]["unitt"] = board["panels"][1]["gridPoss"] = 1
    known = json.loads(json.dumps(models.Dashboard.from_json(board), cls=encoder))
    assert lost(board, known) == [".panels[1].fieldConfig.defaults.unitt: 1, None", ".panels[1].gridPoss: 1, None"]


def test_every_exported_metric_has_a_panel() -> None:
    panels = [panel for board in DASHBOARDS.values() for row in board.rows for panel in row.panels]
    expressions = " ".join(one.expression for panel in panels for one in panel.queries)
    shown = set(re.findall(r"ray_thinkless_\w+", expressions))
    exported = {metric.key: catalogue.prometheus_name(metric) for metric in METRICS if Sink.prometheus in metric.sinks}
    missing = {key for key, name in exported.items() if not {name, f"{name}_bucket"} & shown}
    assert missing == {*NOT_SHOWN}


# ---- queries ----


def test_selectors_have_the_names_and_labels_of_the_catalogue() -> None:
    assert series("think_rate/all", 'run="x"') == 'ray_thinkless_think_rate{run="x"}'
    assert series("reward/answers/timed_out") == 'ray_thinkless_reward_answers_total{outcome="timed_out"}'
    assert series("restarts/worker/{worker}", offset="1h") == "ray_thinkless_restarts_total offset 1h"
    assert entry_of("restarts/worker/3")[1] == {"worker": "3"} and entry_of("restarts/worker/{worker}")[1] == {}
    with pytest.raises(KeyError):
        entry_of("no/such/metric")


def test_quantities_are_queries_with_a_series_for_each_run() -> None:
    rate, step = "max by (run) (ray_thinkless_think_rate)", "max by (run) (ray_thinkless_step)"
    assert query(Metric("think_rate/all")) == rate
    assert query(Metric("think_rate/all", missing=0.5)) == f"({rate} or on (run) 0 * {step} + 0.5)"
    assert query(Age("time")) == "(time() - max by (run) (ray_thinkless_last_record_time))"
    assert query(Setting("run.max_staleness", "staleness/bound")) == "max by (run) (ray_thinkless_staleness_bound)"
    assert query(Formula(Metric("think_rate/all"), "/", 2.0)) == f"({rate} / 2)"
    now = "ray_thinkless_restarts_total"
    added = f"sum by (run) ({now} - ({now} offset 1h or 0 * {now}))"
    assert query(Counted("restarts/worker/{worker}")) == f"({added} or on (run) 0 * {step})"
    assert or_constant("x", 0, 'run="a"') == '(x or on (run) 0 * max by (run) (ray_thinkless_step{run="a"}))'


# ---- alerts ----


def promtool(*arguments: str, folder: Path = DOCKER / "prometheus") -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_promtool_accepts_alerts_and_configuration(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.json"  # the file that Ray's head writes: promtool reads it
    nodes.write_text("[]")
    for name in ("prometheus.yml", "alerts.yml"):
        (tmp_path / name).write_text(files(Places(discovery=str(nodes)))[f"prometheus/{name}"])
    rules, config = (
        promtool("check", *of, folder=tmp_path) for of in (("rules", "alerts.yml"), ("config", "prometheus.yml"))
    )
    assert rules.returncode == 0 and f"{len(RULES)} rules found" in rules.stdout, rules.stdout + rules.stderr
    assert config.returncode == 0 and "1 rule files found" in config.stdout, config.stdout + config.stderr


def test_each_alert_fires_with_its_words_and_clears() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_unit_tests_notice_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    """For every rule: with a threshold that nothing meets, its test fails."""
    content = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    for rule in content["groups"][0]["rules"]:
        rule["expr"] = f"({rule['expr']}) and on () vector(1) == 2"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(content))
    (tmp_path / "alerts_test.yml").write_text((DOCKER / "prometheus" / "alerts_test.yml").read_text())
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode != 0
    assert {*re.findall(r"name: (\w+) fires and clears", done.stdout + done.stderr)} == {*FAULTS}


def test_every_alert_has_a_severity_a_runbook_and_a_test() -> None:
    rules = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((DOCKER / "prometheus" / "alerts_test.yml").read_text())["tests"]
    page = (DOCKER / "prometheus" / "alerts.md").read_text()
    assert [rule["alert"] for rule in rules] == [f"Thinkless{rule.name}" for rule in RULES]
    for alert, rule, test in zip(rules, RULES, tests, strict=True):
        assert alert["labels"] == {"severity": rule.severity}
        assert alert["annotations"]["runbook"] == f"{rule.meaning} {rule.action}"
        assert f"## {alert['alert']}\n" in page and rule.action in page
        fired = [one["alertname"] for one in test["alert_rule_test"] if one["exp_alerts"]]
        assert fired == [alert["alert"]] and not test["alert_rule_test"][-1]["exp_alerts"]
