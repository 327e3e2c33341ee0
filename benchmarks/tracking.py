"""What metrics, trackers and events cost a training step.

A run of the quickstart's task with the default trackers (metrics.jsonl, samples, console, timeline, Ray's Prometheus
endpoint) measures itself: `tracking/seconds` is the time from the end of a step's work to the beginning of the next, in
which figures are made, written and handed to the trackers' threads. Nothing else happens there in this run: no
validation, check or checkpoint.

    tracking_share       of all seconds of the steps, the first ones left out; goal 0.01
    tracking_ms          of the mean step
    tracking_cpu_share   CPU seconds of the driver for figures and trackers (`tracking/cpu_seconds`: the above, and
                         what trackers' threads do meanwhile) over the seconds of the steps

About two minutes with the warm-up. The small form measures a short run, with --runs one that other benchmarks' small
forms have left there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, without_goals
from benchmarks._runs import ROOT, SHORT_SKIP, add_runs, runs_folder, short_run
from orchestrator.report.read import merged, records

STEPS, SKIP = 40, 5
ONLY_STEPS = [
    "experiment=quickstart", "run.save_every=0", "run.logprob_check_every=0", "evaluate.every=0",
    "evaluate.final=false",
    "tracker.report=false", "tracker.progress=false", f"run.steps={STEPS}",
]  # fmt: skip


def train(root: Path) -> Path:
    command = [sys.executable, "-m", "orchestrator", "train", *ONLY_STEPS, f"run.root={root}", "run.name=tracked"]
    subprocess.run([*command, f"warmup.cache={root}/warmup"], cwd=ROOT, stdout=sys.stderr, check=True)
    return root / "tracked"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_small(parser)
    add_runs(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    with runs_folder(arguments.runs if arguments.small else None) as root:
        folder = short_run(0, root) if arguments.small else train(root)
        steps = merged(records(folder / "metrics.jsonl"))[SHORT_SKIP if arguments.small else SKIP :]
    spent, cpu = (
        [float(step[key]) for step in steps if step.get(key) is not None]
        for key in ("tracking/seconds", "tracking/cpu_seconds")
    )
    whole = sum(float(step["seconds/step"]) for step in steps)
    figure("tracking_share", sum(spent) / whole, "share of the steps", 0.01)
    figure("tracking_ms", 1e3 * sum(spent) / len(spent), "ms")
    figure("tracking_cpu_share", sum(cpu) / whole, "share of the steps", 0.01)


if __name__ == "__main__":
    main()
