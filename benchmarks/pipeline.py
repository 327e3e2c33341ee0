"""The pipeline: sampling through actors, whole steps against their parts, weight pushes, the control plane.

Every figure is a ratio within one run, or says how it was taken; see the docstrings of the parts:

    rollout    benchmarks/_rollout.py    rollout_vs_vllm, in_flight_loss
    steps      benchmarks/_steps.py      step_vs_parts, step_vs_max
    push       benchmarks/_push.py       push_vs_memcpy, push_vs_reload, push of the quickstart's model
    control    benchmarks/_control.py    control_plane_per_s, its growth

Figures are JSON lines on stdout, logs go to stderr. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import figure, say

HERE, ROOT = Path(sys.path[-1]), Path(sys.path[0])

PARTS = ("control", "rollout", "push", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts (all)")
    arguments = parser.parse_args()
    for part in arguments.only:
        say(f"--- {part}")
        if part == "control":
            import _control

            _control.measure(figure, say)
        elif part == "steps":
            import _steps

            with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
                _steps.measure(figure, say, ROOT, Path(scratch))
        else:
            subprocess.run([sys.executable, str(HERE / f"_{part}.py")], check=True)


if __name__ == "__main__":
    main()
