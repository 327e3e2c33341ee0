"""All files of the dashboards and alerts, by their paths.

In: where Prometheus, Ray's head and the dashboards are. Out: path -> text. Must not know: what is in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.dashboards import grafana, prometheus
from orchestrator.dashboards.panels import DASHBOARDS, LINKS, RUN_VALUES, WORKER_VALUES


@dataclass(frozen=True)
class Places:
    """As the containers of docker/ see them."""

    discovery: str = prometheus.DISCOVERY  # the file in which Ray's head lists its nodes, or http://<head>:8265/...
    token_file: str | None = None  # with the token of a head that asks for one, where `discovery` is an address
    prometheus: str = "http://prometheus:9090"  # as Grafana reaches it
    folder: str = "/etc/grafana/dashboards"  # of the dashboards, as Grafana sees it
    ray_folder: str = "/tmp/ray/session_latest/metrics/grafana/dashboards"  # of those that Ray writes, likewise


def files(places: Places) -> dict[str, str]:
    boards = {
        f"grafana/dashboards/{name}.json": grafana.to_json(board, RUN_VALUES, WORKER_VALUES, LINKS)
        for name, board in DASHBOARDS.items()
    }
    return {
        **boards,
        "grafana/grafana.ini": grafana.GRAFANA_INI,
        "grafana/provisioning/dashboards/thinkless.yml": grafana.providers_file(places.folder, places.ray_folder),
        "grafana/provisioning/datasources/prometheus.yml": grafana.datasource_file(places.prometheus),
        "prometheus/prometheus.yml": prometheus.scrape_file(places.discovery, places.token_file),
        "prometheus/alerts.yml": prometheus.alerts_file(),
        "prometheus/alerts_test.yml": prometheus.alerts_test_file(),
        "prometheus/alerts.md": prometheus.runbook_page(),
    }
