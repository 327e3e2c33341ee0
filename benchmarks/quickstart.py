"""The quickstart as a whole: seconds, memory, and the figures of its result, for one seed or several.

Prints one JSON line per figure. Every run starts from nothing (its own folder, its own warm-up).
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

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="run.seed of each run (default: 7)")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every run")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            run(seed, (arguments.keep or Path(scratch)).absolute(), arguments.overrides)


def run(seed: int, root: Path, overrides: list[str]) -> None:
    from orchestrator.summary import summarize_evaluation

    shared_before = shared_memory()
    name = f"seed-{seed}"
    command = [sys.executable, "-m", "orchestrator.cli", "quickstart", f"run.seed={seed}", f"run.root={root}",
               f"run.name={name}", f"warmup.cache={root / name}-warmup", *overrides]  # fmt: skip
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr, start_new_session=True)
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(process, peak, shared_before), daemon=True)
    watcher.start()
    if process.wait():
        sys.exit(f"the quickstart failed with exit code {process.returncode}")
    seconds = time.monotonic() - begin
    watcher.join()
    tell(seed, "quickstart_minutes", seconds / 60, "min", 10.0)
    tell(seed, "quickstart_memory", peak[0], "GiB", 8.0)
    tell(seed, "shared_memory_left", shared_memory() - shared_before, "GiB", 0.0)
    records = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
    largest = max(r["mismatch/max_abs"] for r in records if r.get("mismatch/max_abs") is not None)
    tell(seed, "logprob_mismatch_max", largest, "nats", 1e-4)
    summary = summarize_evaluation(json.loads((root / name / "evaluation.json").read_text()))
    for check in summary["checks"]:
        figure = re.sub(r"\W+", "_", check["name"]).strip("_").lower()
        value = float(check["value"]) if check["value"] is not None else None
        tell(seed, figure, value, "share or reward", check["goal"])


def tell(seed: int, figure: str, value: float | None, unit: str, goal: float | str) -> None:
    rounded = None if value is None else round(value, 7)
    print(json.dumps({"figure": figure, "value": rounded, "unit": unit, "goal": goal, "seed": seed}), flush=True)


def watch(process: subprocess.Popen[bytes], peak: list[float], shared_before: float) -> None:
    """Largest sum of proportional set sizes of the run's processes, plus shared memory, in GiB."""
    while process.poll() is None:
        members = family(process.pid)
        total = sum(map(proportional, members)) + max(0.0, shared_memory() - shared_before)
        peak[0] = max(peak[0], total)
        time.sleep(1.0)


def family(root: int) -> list[int]:
    """`root` and everything that descends from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return sorted(members)


def proportional(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has just ended
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    return int(found.group(1)) / 2**20 if found else 0.0


def shared_memory() -> float:
    """GiB used in /dev/shm. Pages that processes map are counted in their proportional sizes, too: an upper bound."""
    usage = os.statvfs("/dev/shm")
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize / 2**30


if __name__ == "__main__":
    main()
