"""The pipeline: sampling through actors, whole steps against their parts, weight pushes, the control plane.

Every figure is a ratio within one run, or says how it was taken; see the docstrings of the parts:

    rollout    benchmarks/_pipeline/rollout.py    rollout_vs_vllm, in_flight_loss
    steps      benchmarks/_pipeline/steps.py      step_vs_parts, step_vs_max
    push       benchmarks/_pipeline/push.py       push_vs_memcpy, push_vs_reload, push of the quickstart's model
    control    benchmarks/_pipeline/control.py    control_plane_per_s, its growth

The steps' small form measures short runs, with --runs those that other benchmarks' small forms have left there.
Figures are JSON lines on stdout, logs go to stderr. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, say, without_goals
from benchmarks._runs import ROOT, add_runs, runs_folder

PARTS = ("control", "rollout", "push", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts (all)")
    add_small(parser)
    add_runs(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    for part in arguments.only:
        say(f"--- {part}")
        if part == "control":
            from benchmarks._pipeline import control

            control.measure(arguments.small)
        elif part == "steps":
            from benchmarks._pipeline import steps

            with runs_folder(arguments.runs if arguments.small else None) as scratch:
                steps.measure(ROOT, scratch, arguments.small)
        else:
            command = [sys.executable, str(ROOT / "benchmarks" / "_pipeline" / f"{part}.py")]
            subprocess.run([*command, *(["--small"] if arguments.small else [])], check=True)


if __name__ == "__main__":
    main()
