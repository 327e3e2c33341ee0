"""thinkless report: (re)write report.html of a run, or a sweep's page."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from conf.errors import BadConfig
from conf.schema import RunConf
from orchestrator.report import write_report
from orchestrator.report.damage import say_damage
from orchestrator.sweeps import state
from orchestrator.sweeps.results import write_outcome
from orchestrator.training import run_dir
from orchestrator.training.run_root import root


def main(options: Namespace) -> None:
    """options.given: run.name (else the newest run is reported) or sweep, and run.root, as far as they were given."""
    given = options.given
    if "sweep" in given:
        if "run.name" in given:
            raise BadConfig("give run.name=<run> or sweep=<sweep>, not both")
        _of_sweep(given["sweep"], root(given.get("run.root", RunConf().root)))
        return
    where = [f"run.root={given['run.root']}"] if "run.root" in given else []
    name = given.get("run.name")
    found: Path = run_dir.find(name, where) if name else run_dir.newest(where)
    say_damage(found)
    print(f"report: {write_report(found)}")
    if not run_dir.learning(found):
        print(f"the run {run_dir.state(found)}: its figures begin with the first step")


def _of_sweep(name: str, runs: Path) -> None:
    found = state.load(state.find(name, runs))
    lines = write_outcome(found)
    print("\n".join([*lines, f"sweep: {found.folder / 'sweep.html'}"]))
