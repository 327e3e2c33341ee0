"""Stands in for `thinkless train` where a test is about the sweep and not about what its members do.

    python -m tests.helpers.member train algorithm.alpha=0.5 run.seed=1 run.name=a-0 run.root=/x ...

writes a run folder whose validation reward is alpha - seed / 100 at every step, and obeys the files of its run.root: a
member whose name is in `fails` ends with an error after its second step, one whose name is in `waits` goes on until it
is stopped, one whose name is in `stubborn` as well wants to be told twice, one in `deaf` is never stopped. `calls` gets
the words of every call.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from orchestrator.base.lock import locked

STEPS = 4


def main(words: list[str]) -> None:
    given = {key: value.strip('"') for key, _, value in (word.partition("=") for word in words)}
    resumed = Path(given["resume"]) if "resume" in given else None
    folder = resumed or Path(given["run.root"]) / given["run.name"]
    folder.mkdir(exist_ok=True)
    with (folder.parent / "calls").open("a") as calls:
        calls.write(f"{' '.join(words)}\n")
    saved = folder / "config.yaml"
    if not resumed:
        saved.write_text(json.dumps({"alpha": given.get("algorithm.alpha", "0"), "seed": given.get("run.seed", "0")}))
    settings = json.loads(saved.read_text())
    left = [1] * named(folder, "stubborn")  # signals that it overhears
    signal.signal(signal.SIGTERM, lambda number, frame: left.pop() if left else sys.exit(143))
    if named(folder, "deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with locked(folder / ".lock"):
        run(folder, settings)


def run(folder: Path, settings: dict[str, str]) -> None:
    step = 0
    while step < STEPS or named(folder, "waits"):
        step += 1
        reward = float(settings["alpha"]) - float(settings["seed"]) / 100
        line = {"step": step, "seconds/step": 0.1, "reward/mean": reward, "think_rate/all": 0.5}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | {"validation/reward": reward, "validation/accuracy": 0.9}) + "\n")
        if step == 2 and named(folder, "fails"):
            raise RuntimeError("a scripted failure")
        time.sleep(0.05)


def named(folder: Path, file: str) -> bool:
    path = folder.parent / file
    return path.is_file() and folder.name in path.read_text().split()


if __name__ == "__main__":
    try:
        main(sys.argv[2:])
    except RuntimeError as error:
        print(f"Traceback of {error}\nthinkless: {error}", flush=True)
        sys.exit(1)
