"""What settings and rows that nobody would write come to. Run: python benchmarks/fuzz.py

Configurations: overrides drawn over every key of the schema (nan, huge, empty, of another type, control characters,
folders, nested lists, groups; one to three at a time) on several experiments, for train, warmup, evaluate and plan,
each with everything that the command does before it starts something. Rows: JSON lines, CSV and parquet as `data.path`
and `warmup.path` read them, and the lines of `thinkless verify`. Every case runs in a child process that is killed
after 5 s.

    fuzz_config_accepted, fuzz_config_rejected     cases that ran, and that were refused in one line
    fuzz_config_faults, fuzz_config_hangs          tracebacks, several lines or a dead process; more than 5 s
    fuzz_cli_faults                                of rejected ones, given to `thinkless` itself, those not in one line
    fuzz_row_*                                     the same of rows: accepted, or counted or refused in one line

Case n of a seed is the same whatever the number of cases. The small form tries 16 and 100.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._fuzz import configurations
from benchmarks._fuzz import rows as rows_of
from benchmarks._fuzz.children import Outcome, outcomes

ROOT = Path(__file__).resolve().parents[1]
Attempt = Callable[[Any], Outcome]


def tried(name: str, attempt: Attempt, cases: Sequence[Any], given: argparse.Namespace) -> tuple[int, list[Any]]:
    """Print the figures of `cases`. Returns the faults and hangs, and the cases that were rejected."""
    counts: Counter[str] = Counter()
    rejected = []
    for case, outcome in outcomes(attempt, cases, given.processes):
        counts[outcome.kind] += 1
        if outcome.kind == "rejected":
            rejected.append(case)
        if outcome.kind == given.show or outcome.kind not in ("accepted", "rejected"):
            say(f"{outcome.kind}: {case}\n    {outcome.text.strip()}")
    faults = sum(counts[kind] for kind in ("traceback", "lines", "died"))
    figure(f"fuzz_{name}_accepted", counts["accepted"], "cases")
    figure(f"fuzz_{name}_rejected", counts["rejected"], "cases")
    figure(f"fuzz_{name}_faults", faults, "cases", 0)
    figure(f"fuzz_{name}_hangs", counts["hang"], "cases", 0)
    return faults + counts["hang"], rejected


def on_the_command_line(cases: Sequence[configurations.Case], count: int) -> int:
    """Give `count` of these rejected cases to `thinkless` itself. Returns those that do not end in one line."""
    able = [case for case in cases if all(configurations.typeable(word) for word in case.own)]
    faults, step = 0, max(1, len(able) // max(1, count))
    for case in able[::step][:count]:
        words = [sys.executable, "-m", "orchestrator", case.command, *case.base, *case.own]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=env, timeout=600)
        outcome = configurations.outcome_of(done.returncode, done.stderr, 0.0)
        if outcome.kind != "rejected":
            faults += 1
            say(f"{outcome.kind} on the command line: {case}\n    {outcome.text.strip()}")
    figure("fuzz_cli_faults", faults, "cases", 0)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=10_000, help="configurations")
    parser.add_argument("--rows", type=int, default=10_000, help="rows")
    parser.add_argument("--cli", type=int, default=20, help="rejected configurations that `thinkless` itself is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", choices=("accepted", "rejected"), help="list these, too")
    add_small(parser)
    given = parser.parse_args()
    if given.small:
        without_goals()
        given.configs, given.rows, given.cli = 16, 100, 1
    configurations.quiet()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        configurations.make_files(Path(folder))
        last = given.first + given.configs
        configs = [configurations.draw_case(given.seed, index) for index in range(given.first, last)]
        bad, rejected = tried("config", configurations.attempt, configs, given)
        bad += on_the_command_line(rejected, given.cli)
        rows = [rows_of.draw_row(given.seed, index) for index in range(given.first, given.first + given.rows)]
        bad += tried("row", rows_of.attempt, rows, given)[0]
        os.chdir("/")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
