"""thinkless report: (re)write report.html of a run."""

from __future__ import annotations

from pathlib import Path

from orchestrator.report import write_report
from orchestrator.training import run_dir
from rollout.base.errors import BadInput

USAGE = """usage: thinkless report [run.name=<run>] [run.root=<folder>]

Writes report.html into the run's folder: the run's name or path, or the newest run under run.root.
"""


def main(arguments: list[str]) -> None:
    if any(a in ("-h", "--help") for a in arguments):
        print(USAGE, end="")
        return
    unknown = [a for a in arguments if not a.startswith(("run.name=", "run.root="))]
    if unknown:
        raise BadInput(f"thinkless report takes run.name=<run> and run.root=<folder>, got {' '.join(unknown)}")
    name = next((a.partition("=")[2] for a in arguments if a.startswith("run.name=")), None)
    found: Path = run_dir.find(name, arguments) if name else run_dir.newest(arguments)
    print(f"report: {write_report(found)}")
    if not run_dir.learning(found):
        print(f"the run {run_dir.state(found)}: its figures begin with the first step")
