"""Whole steps of real training runs against their parts, which are timed inside the same run (timeline.json).

step_vs_parts        run.max_staleness=0: time of the steps over the sum of sampling, grading, learning, publishing
                     and loading in the same time; goal 1.05
step_vs_max          run.max_staleness=1, one engine and one learner rank, each pinned to a core of its own: time of
                     the steps over the larger of all sampling and all learning in the same time; goal 1.10. The worse
                     of two runs: `_sampling`, where sampling takes twice as long, and `_even`, where learning is made
                     to take about as long (checkpointing, eight optimizer steps)
overlap_gain         trajectories/s of the second over those of the first, the same work

The small form checks the settings of all three runs, and measures two short ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks._figures import figure, say
from benchmarks._runs import SHORT_SKIP, check_settings, short_run

STEPS, SKIPPED = 30, 5  # the first steps fill the queue
SETTINGS = [
    "experiment=quickstart", f"run.steps={STEPS}", "run.save_every=0", "run.logprob_check_every=0", "evaluate.every=0",
    "evaluate.final=false", "tracker.report=false", "rollout.prompts_per_step=64", "warmup.steps=300",
    "learner.schedule=constant", "learner.lr=1e-6", "rollout.slowdown=1.25", "rollout.workers=1",
    "rollout.num_cpus=0.4",
]  # fmt: skip
RUNS: dict[tuple[int, str], list[str]] = {  # staleness, name -> settings
    (0, ""): [],
    (1, "sampling"): [],
    (1, "even"): ["learner.gradient_checkpointing=true", "algorithm.optimizer_steps=8"],
}
CORES = {"ray::RolloutWorker": 0, "ray::LearnerWorker": 1}


def measure(root: Path, scratch: Path, small: bool) -> None:
    """scratch: where runs go; in the small form, where short ones are found, too."""
    from orchestrator.tracking.chrome_trace import read
    from orchestrator.tracking.utilization import STAGES, WORK, by_kind

    speeds, ratios = {}, {}
    for (staleness, kind), more in RUNS.items():
        overrides = [*SETTINGS, f"run.max_staleness={staleness}", *more]
        overrides += ["algorithm.importance=truncate"] if staleness else []
        if small:
            check_settings(overrides)
            folder = short_run(staleness, scratch)
        else:
            folder = train(root, scratch, staleness, f"staleness-{staleness}{kind}", overrides)
        trace = read(folder / "timeline.json")
        assert trace is not None, f"{folder}/timeline.json holds no steps"
        windows = trace.windows[SHORT_SKIP if small else SKIPPED :]
        wall = sum(end - begin for begin, end in windows)
        seconds = {actor: by_kind(spans, windows) for actor, spans in trace.spans.items()}
        work = {actor: spent.get(WORK.get(actor.kind, ""), 0.0) for actor, spent in seconds.items()}
        listed = ", ".join(f"{actor.name} {1e3 * s / len(windows):.0f} ms" for actor, s in work.items() if s)
        say(f"staleness {staleness} {kind}: {1e3 * wall / len(windows):.0f} ms a step; {listed}")
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        speeds[kind] = 64 * 8 * len(windows) / wall
        if staleness == 0:
            kinds = ("sampling", "grading", "learning", "publishing", "loading weights")
            parts = sum(spent.get(kind, 0.0) for spent in seconds.values() for kind in kinds)
            figure("step_vs_parts", wall / parts, "ratio", 1.05)
        else:
            stale = [row["staleness/max"] for row in rows if "staleness/max" in row]
            say(f"staleness of the batches: {stale}")
            assert max(stale) == 1
            most = max(work[actor] for actor in work if actor.kind in STAGES)
            ratios[kind] = wall / most
            figure(f"step_vs_max_{kind}", wall / most, "ratio", 1.10)
    figure("step_vs_max", max(ratios.values()), "ratio", 1.10)
    figure("overlap_gain", speeds["sampling"] / speeds[""], "ratio of trajectories/s", None)


def train(root: Path, scratch: Path, staleness: int, name: str, overrides: list[str]) -> Path:
    command = [sys.executable, "-m", "orchestrator", "train", *overrides, f"run.root={scratch}", f"run.name={name}",
               f"warmup.cache={scratch}/warmup"]  # fmt: skip
    process = subprocess.Popen(command, cwd=root, stdout=sys.stderr, start_new_session=True)
    if staleness:
        threading.Thread(target=pin, args=(process,), daemon=True).start()
    if process.wait():
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return scratch / name


def pin(process: Any) -> None:
    """Each of the two to a core of its own, from its first moment on: threads that it starts later stay there."""
    import psutil

    if len(os.sched_getaffinity(0)) < 2:
        return
    pinned: set[int] = set()
    while process.poll() is None and len(pinned) < len(CORES):
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                title = child.cmdline()[0]
                core = next((c for begin, c in CORES.items() if title.startswith(begin)), None)
                if core is not None and child.pid not in pinned:
                    for thread in child.threads():
                        os.sched_setaffinity(thread.id, {core})
                    pinned.add(child.pid)
            except (psutil.Error, ProcessLookupError, IndexError):
                continue  # it has just ended
        time.sleep(0.2)
