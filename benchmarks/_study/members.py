"""The runs of the study on `experiment=long`, as many at a time as asked for; what has finished is not run again.

In: seeds, variants, a folder. Out: a run folder for each seed and variant. Must not know: what is read from them.

Runs of one seed differ in the setting of their variant alone, and start from the same warm-up (the cache keeps it).
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks._figures import say
from benchmarks._runs import ROOT

DEGRPO, GRPO, LOW, HIGH = "degrpo", "grpo", "alpha_low", "alpha_high"
VARIANTS: dict[str, list[str]] = {  # the first two are compared; the others show what alpha does
    DEGRPO: [],
    GRPO: ["algorithm=grpo"],
    LOW: ["algorithm.alpha=0.001"],
    HIGH: ["algorithm.alpha=30"],
}
SMALL = [
    "run.steps=6", "warmup.steps=6", "warmup.batch_size=2", "data.register.lines=10", "warmup.register.lines=10",
    "rollout.prompts_per_step=2", "rollout.group_size=4", "evaluate.questions=2", "rollout.kv_cache_gib=0.25",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    variant: str
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        path = self.folder / "evaluation.json"
        return path.is_file() and "final" in json.loads(path.read_text())["models"]


def members(root: Path, seeds: list[int], variants: list[str]) -> list[Member]:
    """All seeds of a variant, then the next one: so two that run at once make different warm-ups."""
    return [Member(variant, seed, root / f"{variant}-{seed}") for variant in variants for seed in seeds]


def run(wanted: list[Member], jobs: int, overrides: list[str]) -> None:
    """Those that have not finished, `jobs` at a time. Exits with the first failure, after the others at work. Ctrl-C
    and SIGTERM end the runs at work as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script ignores it
    waiting = [member for member in wanted if not member.finished]
    say(f"{len(wanted) - len(waiting)} of {len(wanted)} runs have finished")
    working: dict[subprocess.Popen[bytes], Member] = {}
    failed: list[str] = []
    try:
        while working or (waiting and not failed):
            while waiting and not failed and len(working) < jobs:
                member = waiting.pop(0)
                working[start(member, overrides)] = member
            time.sleep(0.2)
            for process in [process for process in working if process.poll() is not None]:
                member = working.pop(process)
                if process.returncode or not member.finished:
                    failed.append(f"{member.folder.name} ended with {process.returncode}: see {log(member)}")
                else:
                    say(f"{member.folder.name} has finished; {len(waiting)} wait")
    finally:
        for process in working:
            process.terminate()
        for process in working:
            process.wait(120)
    if failed:
        sys.exit("; ".join(failed))


def log(member: Member) -> Path:
    return member.folder.with_suffix(".log")


def start(member: Member, overrides: list[str]) -> subprocess.Popen[bytes]:
    """From its last checkpoint, where an interrupted run has left one, otherwise from its beginning."""
    root = member.folder.parent
    if any(member.folder.glob("checkpoints/step_*")):
        settings = [f"resume={member.folder}"]
    else:
        shutil.rmtree(member.folder, ignore_errors=True)
        settings = ["experiment=long", f"run.seed={member.seed}", f"run.root={root}", f"run.name={member.folder.name}",
                    f"warmup.cache={root}/warmup", *VARIANTS[member.variant], *overrides]  # fmt: skip
    command = [sys.executable, "-m", "orchestrator", "train", *settings]
    say(" ".join(command[1:]))
    with log(member).open("ab") as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
