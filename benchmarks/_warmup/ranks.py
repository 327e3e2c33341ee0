"""Whether the quickstart's warm-up is faster on two ranks of one thread each than on one rank.

In: nothing but `small`. Out: figures. Must not know: what is learnt.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._figures import figure, say
from benchmarks._runs import ROOT

STEPS, SKIPPED, ROUNDS = 250, 50, 3
SIDES = {
    "one": ["warmup.ranks=1", "learner.threads=1"],
    "threads": ["warmup.ranks=1", "learner.threads=2"],
    "ranks": ["warmup.ranks=2", "learner.threads=1"],
}


def speed(settings: list[str], steps: int, skipped: int) -> float:
    """Steps per second, without the first ones."""
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as cache:
        subprocess.run(
            [sys.executable, "-m", "orchestrator", "warmup", "experiment=quickstart", f"warmup.steps={steps}",
             f"warmup.cache={cache}", *settings],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            stdout=sys.stderr,
            check=True,
        )  # fmt: skip
        (log,) = Path(cache).glob("*/warmup.jsonl")
        rows = {row["step"]: row["seconds"] for row in map(json.loads, log.read_text().splitlines())}
    return float((steps - skipped) / (rows[steps] - rows[skipped]))


def ranks(small: bool) -> None:
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(1 if small else ROUNDS):
        for name in list(SIDES)[:: -1 if turn % 2 else 1]:
            if small and name != "ranks":
                continue
            found[name].append(speed(SIDES[name], 20 if small else STEPS, 10 if small else SKIPPED))
    say(f"steps/s: {found}")
    for name, unit, goal in (("ranks", "a thread each", 1.05), ("threads", "one rank", None)):
        gains = [mine / one for mine, one in zip(found[name], found["one"], strict=False)]
        gain = statistics.median(gains) if gains else None
        figure(f"warmup_two_{name}_vs_one", gain, f"ratio of steps/s, {unit}", goal)
    figure("warmup_steps_per_s", statistics.median(found["ranks"]), "steps/s on two ranks")
