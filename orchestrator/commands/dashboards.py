"""thinkless dashboards: write the dashboards for Grafana, and scraping and alerts for Prometheus, into a folder."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from orchestrator.base.files import write_whole
from orchestrator.dashboards.files import Places, files


def main(options: Namespace) -> None:
    """options.given: `out`, and the fields of `Places`, as far as they were given."""
    given = dict(options.given)
    out = Path(given.pop("out", "dashboards")).expanduser()
    own = out.absolute() / "grafana" / "dashboards"
    places = replace(Places(prometheus="http://localhost:9090", folder=str(own)), **given)
    for name, text in files(places).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        print(path)
