"""The quickstart as a whole: seconds, memory, and the figures of its result, for one seed or several.

Prints one JSON line per figure. Every run starts from nothing (its own folder, its own warm-up). Where the minutes go
is read from the run's files:

    quickstart_minutes                from the command to its end; goal 10
    quickstart_share_warm_up          of that time, the warm-up (warmup.json)
    quickstart_share_evaluation_before  from the first token sampled to the first step (timeline.json)
    quickstart_share_training         the steps and what is between them
    quickstart_share_evaluation_after   from the last step to the last answer graded
    quickstart_share_start_up         what comes before the first token sampled and is no warm-up: imports, Ray, engines
    quickstart_share_end              what comes after the last answer: closing, the report
    quickstart_memory                 most memory of all its processes; goal 8 GiB
    shared_memory_left                in /dev/shm; goal 0
    logprob_mismatch_max              sampler against learner; goal 1e-4 nats
    and each check of the run's own result, with its goal

The small form is a run of four steps, left in --keep as the short run that other benchmarks' --runs find.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, without_goals
from benchmarks._processes import family, proportional
from benchmarks._runs import ROOT, SHORT, short_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="run.seed of each run (default: 7)")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every run")
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    for seed in arguments.seeds[:1] if arguments.small else arguments.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            root = (arguments.keep or Path(scratch)).absolute()
            if arguments.small:
                run(seed, root / short_name(0), root / "short-warmup", [*SHORT, *arguments.overrides])
            else:
                run(seed, root / f"seed-{seed}", root / f"seed-{seed}-warmup", arguments.overrides)


def run(seed: int, folder: Path, warmup: Path, overrides: list[str]) -> None:
    """A run into `folder`, from a warm-up into `warmup`, which holds none yet."""
    from orchestrator.tracking.summary import summarize_evaluation

    shared_before = shared_memory()
    command = [sys.executable, "-m", "orchestrator", "quickstart", f"run.seed={seed}", f"run.root={folder.parent}",
               f"run.name={folder.name}", f"warmup.cache={warmup}", *overrides]  # fmt: skip
    begin = time.time()
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr, start_new_session=True)
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(process, peak, shared_before), daemon=True)
    watcher.start()
    if process.wait():
        sys.exit(f"the quickstart failed with exit code {process.returncode}")
    end = time.time()
    watcher.join()
    figure("quickstart_minutes", (end - begin) / 60, "min", 10.0, seed=seed)
    for name, seconds in phases(folder, warmup, begin, end).items():
        figure(f"quickstart_share_{name}", seconds / (end - begin), f"of the time: {seconds:.0f} s", seed=seed)
    figure("quickstart_memory", peak[0], "GiB", 8.0, seed=seed)
    figure("shared_memory_left", shared_memory() - shared_before, "GiB", 0.0, seed=seed)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    largest = max(r["mismatch/max_abs"] for r in records if r.get("mismatch/max_abs") is not None)
    figure("logprob_mismatch_max", largest, "nats", 1e-4, seed=seed)
    summary = summarize_evaluation(json.loads((folder / "evaluation.json").read_text()))
    for check in summary["checks"]:
        name = re.sub(r"\W+", "_", check["name"]).strip("_").lower()
        value = float(check["value"]) if check["value"] is not None else None
        figure(name, value, "share or reward", check["goal"], seed=seed)


def phases(folder: Path, warmup: Path, begin: float, end: float) -> dict[str, float]:
    """Seconds of each part of a run that began and ended then (seconds since the epoch); together end - begin."""
    from orchestrator.tracking.chrome_trace import read

    trace = read(folder / "timeline.json")
    (done,) = warmup.glob("*/warmup.json")
    assert trace is not None, f"{folder}/timeline.json holds no step"
    warming = float(json.loads(done.read_text())["seconds"])
    spans = [span for actor, found in trace.spans.items() if actor.kind in ("rollout", "reward") for span in found]
    sampled = min(span.begin for span in spans if span.kind == "sampling")
    answered = max(span.end for span in spans if span.kind in ("sampling", "grading"))
    first, last = trace.windows[0][0], trace.windows[-1][1]
    return {
        "start_up": sampled - begin - warming,
        "warm_up": warming,
        "evaluation_before": first - sampled,
        "training": last - first,
        "evaluation_after": max(answered - last, 0.0),
        "end": end - max(answered, last),
    }


def watch(process: subprocess.Popen[bytes], peak: list[float], shared_before: float) -> None:
    """Largest sum of proportional set sizes of the run's processes, plus shared memory, in GiB."""
    while process.poll() is None:
        members = family(process.pid)
        total = sum(map(proportional, members)) + max(0.0, shared_memory() - shared_before)
        peak[0] = max(peak[0], total)
        time.sleep(1.0)


def shared_memory() -> float:
    """GiB used in /dev/shm. Pages that processes map are counted in their proportional sizes, too: an upper bound."""
    usage = os.statvfs("/dev/shm")
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize / 2**30


if __name__ == "__main__":
    main()
