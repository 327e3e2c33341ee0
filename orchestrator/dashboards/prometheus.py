"""Rules -> Prometheus: scraping by Ray's service discovery, alerts, their unit tests for promtool, and their runbook.

In: `RULES`. Out: text of files. Must not know: when a rule holds for a run's records, Grafana.

An alert's unit test is a run of a step a minute: healthy, then with the fault of `cases`, then healthy again. The alert
must be silent, fire with the words that the run's figures give, and be silent once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from orchestrator.dashboards import cases
from orchestrator.dashboards.promql import condition, entry_of, query, series
from orchestrator.tracking.catalogue import Kind
from orchestrator.tracking.conditions import Quantity, Seen
from orchestrator.tracking.rules import RULES, Form, Rule

DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"  # in Ray's default temporary folder, on the head
NAME = "Thinkless{}"
HEALTHY_MINUTES, WINDOW_MINUTES, RUN = 10, 60, "mine"  # of the unit tests; WINDOW_MINUTES is ALERT_WINDOW


def _duration(value: float) -> str:
    """As Prometheus writes it. Example: 1800 -> "30m 0s"."""
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h " if hours else "") + (f"{minutes}m " if hours or minutes else "") + f"{seconds}s"


# a value in an annotation: Prometheus's template, and the same in Python
TEMPLATES: dict[Form, tuple[str, Callable[[float], str]]] = {
    "share": ("humanizePercentage", lambda value: f"{100 * value:.4g}%"),
    "number": ('printf "%.3g"', lambda value: f"{value:.3g}"),
    "count": ('printf "%.0f"', lambda value: f"{value:.0f}"),
    "seconds": ("humanizeDuration", _duration),
}


# ---- alerts ----


def alerts_file() -> str:
    return _yaml({"groups": [{"name": "thinkless", "rules": [_alert(rule) for rule in RULES]}]})


def _alert(rule: Rule) -> dict[str, Any]:
    alert: dict[str, Any] = {
        "alert": NAME.format(rule.name),
        "expr": " and ".join(condition(one) for one in rule.conditions),
    }
    if rule.minutes:
        alert["for"] = f"{rule.minutes}m"
    figures = {name: _template(of, form) for name, (of, form) in rule.figures.items()}
    alert["labels"] = {"severity": rule.severity}
    alert["annotations"] = _annotations(rule, "{{ $labels.run }}", figures)
    return alert


def _annotations(rule: Rule, run: str, figures: dict[str, str]) -> dict[str, str]:
    return {"summary": f"{run}: {rule.words.format(**figures)}", "runbook": f"{rule.meaning} {rule.action}"}


def _template(of: Quantity, form: Form) -> str:
    """A quantity of the alert's run, asked for when the alert is written."""
    asked, shown = query(of, 'run="%[1]s"'), TEMPLATES[form][0]
    return f"{{{{ with printf `{asked}` .Labels.run | query }}}}{{{{ . | first | value | {shown} }}}}{{{{ end }}}}"


# ---- their unit tests ----


def alerts_test_file(rules: str = "alerts.yml") -> str:
    """For `promtool test rules`. rules: the path of the alerts' file from this one."""
    tests = [_test(rule) for rule in RULES]
    return _yaml({"rule_files": [rules], "evaluation_interval": "1m", "tests": tests})


def _test(rule: Rule) -> dict[str, Any]:
    minutes = list(_minutes(rule))
    fires = HEALTHY_MINUTES + rule.minutes + (25 if rule.name == "NoProgress" else 1)
    seen = Seen(minutes[fires], _past(minutes, fires), minutes[fires], cases.SETTINGS, fires * cases.STEP_S)
    figures = {name: TEMPLATES[form][1](_known(seen.value(of))) for name, (of, form) in rule.figures.items()}
    firing = {
        "exp_labels": {"severity": rule.severity, "run": RUN},
        "exp_annotations": _annotations(rule, RUN, figures),
    }
    times = {HEALTHY_MINUTES - 1: [], fires: [firing], len(minutes) - 1: []}
    return {
        "name": f"{rule.name} fires and clears",
        "interval": "1m",
        "input_series": _input(minutes),
        "alert_rule_test": [
            {"eval_time": f"{at}m", "alertname": NAME.format(rule.name), "exp_alerts": alerts}
            for at, alerts in times.items()
        ],
    }


def _minutes(rule: Rule) -> list[dict[str, float]]:
    """The record that is the newest at each minute."""
    faulty = rule.minutes + (30 if rule.name == "NoProgress" else 5)
    found: list[dict[str, float]] = []
    for minute in range(HEALTHY_MINUTES + faulty + WINDOW_MINUTES + 5):
        in_fault = HEALTHY_MINUTES <= minute < HEALTHY_MINUTES + faulty
        fault = cases.FAULTS[rule.name]
        if in_fault and not fault:
            found.append(found[-1])
        else:
            found.append(cases.HEALTHY | (fault if in_fault else {}) | {"step": minute, "time": minute * cases.STEP_S})
    return found


def _past(minutes: Sequence[dict[str, float]], at: int) -> Sequence[dict[str, float]]:
    """The records whose counts the window at minute `at` sums: nothing was counted before the first."""
    return minutes[1 : at + 1] if at <= WINDOW_MINUTES else minutes[at - WINDOW_MINUTES + 1 : at + 1]


def _input(minutes: Sequence[dict[str, float]]) -> list[dict[str, str]]:
    found = []
    for key in minutes[0]:
        entry, _ = entry_of(key)
        values = [minute[key] for minute in minutes]
        if entry.kind is Kind.counter:
            sums = [sum(values[1 : at + 1]) for at in range(len(values))]
            values = sums
        found.append({"series": series(key, f'run="{RUN}",WorkerId="01ff"'), "values": _run_lengths(values)})
    return found


def _run_lengths(values: Sequence[float]) -> str:
    """In promtool's notation: begin+stepxcount. Example: [1, 1, 1, 2, 3] -> "1+0x2 2+1x1"."""
    parts, at = [], 0
    while at < len(values):
        slope = values[at + 1] - values[at] if at + 1 < len(values) else 0.0
        end = at
        while end + 1 < len(values) and values[end + 1] == values[at] + slope * (end + 1 - at):
            end += 1
        parts.append(f"{values[at]:g}+{slope:g}x{end - at}")
        at = end + 1
    return " ".join(parts)


def _known(value: float | None) -> float:
    assert value is not None
    return value


# ---- scraping ----


def scrape_file(discovery: str = DISCOVERY, token_file: str | None = None) -> str:
    """Prometheus's configuration. discovery: the file that Ray's head writes, or where it serves the same; token_file:
    of a head that asks for a token there."""
    if re.match(r"https?://", discovery):
        source = f"http_sd_configs:\n      - url: {discovery}\n        refresh_interval: 10s"
        if token_file is not None:
            source += f"\n        authorization:\n          type: Bearer\n          credentials_file: {token_file}"
    else:
        source = f"file_sd_configs:\n      - files: [{discovery}]\n        refresh_interval: 10s"
    return f"""\
# Written by `thinkless dashboards`. Every node of the Ray cluster is scraped; Ray's head lists them in a file of its
# temporary folder, and on http://<head>:8265/api/prometheus/sd for a Prometheus elsewhere.
global:
  scrape_interval: 10s
  evaluation_interval: 15s
rule_files: [alerts.yml]
scrape_configs:
  - job_name: ray
    {source}
    metric_relabel_configs:
      - action: labeldrop
        regex: otel_scope_.*
"""


# ---- runbook ----


def runbook_page() -> str:
    """The alerts as Markdown: what each means and what to do."""
    lines = [
        "# Alerts",
        "",
        "Written by `thinkless dashboards` from `orchestrator/tracking/rules.py`. The same rules are the advisories of "
        "`thinkless watch` and of the report; there, a rule counts training steps instead of minutes.",
    ]
    for rule in RULES:
        words = re.sub(r"{(\w+)}", r"*\1*", rule.words)
        held = f"for {rule.minutes} minutes" if rule.minutes else "within an hour"
        steps = f"{rule.steps} steps{' in a row' if rule.minutes else ''}" if rule.steps > 1 else "a step"
        lines += [
            "",
            f"## {NAME.format(rule.name)}",
            "",
            f"{rule.severity}, {held} ({steps}): “{words}”",
            "",
            f"{rule.meaning} {rule.action}",
        ]
    return "\n".join(lines) + "\n"


def _yaml(content: Any) -> str:
    text = yaml.safe_dump(content, sort_keys=False, width=116, allow_unicode=True)
    return f"# Written by `thinkless dashboards`.\n{text}"
