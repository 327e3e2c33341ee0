"""Runs of `thinkless` for benchmarks: the real one, and in a --small form one short run that stands for many.

In: settings. Out: the folder of a finished run. Must not know: what is measured in it.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._figures import say

ROOT = Path(__file__).resolve().parents[1]
SHORT = [
    "experiment=quickstart", "run.seed=7", "run.steps=4", "run.save_every=0", "run.logprob_check_every=2",
    "warmup.steps=20", "rollout.prompts_per_step=4", "rollout.kv_cache_gib=0.25", "validation.size=0",
    "evaluate.every=0",
    "evaluate.questions=2", "rollout.workers=1", "rollout.num_cpus=0.4",
]  # fmt: skip
AHEAD = [
    "run.max_staleness=1", "algorithm.importance=truncate", "reward.function=benchmarks._trl.side:reward",
    "run.logprob_check_every=0", "evaluate.final=false", "tracker.report=false",
]  # fmt: skip
SHORT_ANSWERS = 32  # a step
SHORT_SKIP = 1  # first steps of a short run that are not counted


def add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, help="with --small: short runs are kept and found here")


@contextlib.contextmanager
def runs_folder(given: Path | None) -> Iterator[Path]:
    """`given`, or one that lasts as long as the script."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        yield Path(scratch)


def check_settings(overrides: list[str]) -> None:
    """`thinkless train` would begin with these. Raises BadConfig where it would not."""
    from conf.compose import run_command

    run_command("train", lambda conf: None, overrides)


def short_name(staleness: int) -> str:
    return f"short-{min(staleness, 1)}"


def short_run(staleness: int, root: Path) -> Path:
    """A run of SHORT (AHEAD from staleness 1 on), taken from `root` where one has finished."""
    folder = root / short_name(staleness)
    if (folder / "model").is_dir():
        return folder
    command = [sys.executable, "-m", "orchestrator", "train", *SHORT, *(AHEAD if staleness else []),
               f"run.root={root}", f"run.name={folder.name}", f"warmup.cache={root}/short-warmup"]  # fmt: skip
    say(" ".join(command))
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    return folder
