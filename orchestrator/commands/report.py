"""thinkless report: (re)write report.html of a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from orchestrator.report import write_report
from orchestrator.training import run_dir


def main(options: Namespace) -> None:
    """options.given: run.name (else the newest run is reported) and run.root, as far as they were given."""
    given = options.given
    root = [f"run.root={given['run.root']}"] if "run.root" in given else []
    name = given.get("run.name")
    found: Path = run_dir.find(name, root) if name else run_dir.newest(root)
    print(f"report: {write_report(found)}")
    if not run_dir.learning(found):
        print(f"the run {run_dir.state(found)}: its figures begin with the first step")
