"""Panels -> Grafana: a dashboard's JSON (schema version 39, Grafana 10.4 and later), its provisioning files.

In: rows of `Panel`s with PromQL. Out: text of files. Must not know: which panels there are, what metrics mean.

Ray's dashboard embeds Grafana (its Metrics tab) if `GRAFANA_INI` allows that, if Ray's own dashboards are provisioned
from its session folder, and if the data source has the name that Ray was told (RAY_PROMETHEUS_NAME, "Prometheus").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

COLUMNS, HEIGHT = 24, 8  # of Grafana's grid; a panel's height in its units
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "thinkless"


@dataclass(frozen=True)
class Query:
    expression: str  # PromQL; $run, $worker and $window are variables
    legend: str  # {{label}} is replaced


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    unit: str  # Grafana's id: "percentunit", "s", "short", ...
    queries: tuple[Query, ...]
    width: int = 8  # of COLUMNS
    kind: str = "timeseries"  # or "stat"
    stacked: bool = False
    low: float | None = 0.0  # of the axis; None: by the data
    high: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]


def to_json(board: Dashboard, run_values: str, worker_values: str, links: Sequence[tuple[str, str]]) -> str:
    """The file of a dashboard. run_values, worker_values: queries of the two variables; links: (title, address)."""
    content: dict[str, Any] = {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": _variables(run_values, worker_values)},
        "links": [_dashboards_link(), *(_link(title, address) for title, address in links)],
        "panels": _panels(board.rows),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        found.append(
            {
                "type": "row",
                "id": len(found) + 1,
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            found.append(_panel(panel, len(found) + 1, place))
            x += panel.width
        y += HEIGHT
    return found


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    defaults |= {name: bound for name, bound in (("min", panel.low), ("max", panel.high)) if bound is not None}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": 600_000,  # ms: a step may take minutes
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
        }
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "auto"}
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": _letters(at), "datasource": SOURCE, "expr": one.expression, "legendFormat": one.legend}
            for at, one in enumerate(panel.queries)
        ],
    }


def _letters(at: int) -> str:
    return chr(ord("A") + at)


def _variables(run_values: str, worker_values: str) -> list[dict[str, Any]]:
    def from_values(name: str, label: str, query: str) -> dict[str, Any]:
        return {
            "type": "query",
            "name": name,
            "label": label,
            "datasource": SOURCE,
            "query": query,
            "refresh": 2,  # with the time range
            "sort": 7,  # natural order
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }

    def text(name: str, label: str, value: str) -> dict[str, Any]:
        return {
            "type": "textbox",
            "name": name,
            "label": label,
            "query": value,
            "current": {"text": value, "value": value},
        }

    windows = ("1m", "5m", "15m", "1h", "6h")
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "current": {"text": "Prometheus", "value": "Prometheus"},
        },
        from_values("run", "Run", run_values),
        from_values("worker", "Worker", worker_values),
        {
            "type": "custom",
            "name": "window",
            "label": "Averaged over",
            "description": "What rates and quantiles are taken over: several steps of the run.",
            "query": ",".join(windows),
            "current": {"text": "5m", "value": "5m"},
            "options": [{"text": one, "value": one, "selected": one == "5m"} for one in windows],
        },
        text("ray", "Ray's dashboard", "http://localhost:8265"),
        text("pages", "thinkless watch", "http://localhost:8270"),
    ]


def _link(title: str, address: str) -> dict[str, Any]:
    return {
        "title": title,
        "type": "link",
        "icon": "external link",
        "tooltip": title,
        "url": address,
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": False,
        "keepTime": False,
    }


def _dashboards_link() -> dict[str, Any]:
    """To the other dashboards, with the same run and time."""
    return {
        "title": "Thinkless",
        "type": "dashboards",
        "icon": "dashboard",
        "tooltip": "The other dashboards, with this run and time",
        "url": "",
        "tags": [TAG],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }


GRAFANA_INI = """\
; Lets Ray's dashboard embed Grafana (its Metrics tab): pages in a frame, read by anybody who reaches the port.
[security]
allow_embedding = true

[auth.anonymous]
enabled = true
org_name = Main Org.
org_role = Viewer
"""


def datasource_file(address: str) -> str:
    """Grafana's data source. address: of Prometheus, as Grafana reaches it."""
    source = {
        "name": "Prometheus",  # RAY_PROMETHEUS_NAME
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": address,
        "isDefault": True,
        "jsonData": {"timeInterval": "10s", "httpMethod": "POST"},
    }
    return yaml.safe_dump({"apiVersion": 1, "datasources": [source]}, sort_keys=False)


def providers_file(ours: str, rays: str) -> str:
    """Where Grafana reads dashboards: our folder, and that in which Ray writes those of its Metrics tab."""
    providers = [
        {"name": name, "folder": name, "type": "file", "options": {"path": path}}
        for name, path in (("Thinkless", ours), ("Ray", rays))
    ]
    return yaml.safe_dump({"apiVersion": 1, "providers": providers}, sort_keys=False)
