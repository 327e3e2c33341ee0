"""What this folder's tests share: one warm-up for all runs, and the settings under which a run takes seconds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.launched import RUNNING, succeeded, thinkless

# After this warm-up the model answers level 2 in both modes, level 4 only by thinking.
TASK = [
    "experiment=quickstart",
    "data.arithmetic.levels=[2,4]",
    "data.arithmetic.weights=[0.7,0.3]",
    "warmup.arithmetic.levels=[2,4]",
    "warmup.arithmetic.weights=[0.3,0.7]",
    "warmup.short_weight=1",
    "warmup.steps=500",
    "rollout.workers=1",
]
TINY = ["rollout.prompts_per_step=4", "rollout.group_size=4", "evaluate.every=0", "evaluate.final=false"]
TINY += ["learner.schedule=constant", "rollout.kv_cache_gib=0.25", "run.logprob_check_every=1"]


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """What a failing test has started ends with it."""
    yield
    for run in RUNNING:
        if run.returncode is None and not run.outlives_tests:
            run.kill()
    RUNNING[:] = [run for run in RUNNING if run.outlives_tests]


@dataclass(frozen=True)
class WarmUp:
    cache: Path
    peak_gib: float  # of memory


@pytest.fixture(scope="session")
def warm_up(tmp_path_factory: pytest.TempPathFactory) -> WarmUp:
    """`thinkless warmup`, done once; its cache serves every run here, those of the other test process as well."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "warm-up"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first makes it, the other waits
        peak = folder / "peak_gib"
        if not peak.is_file():
            run = thinkless("warmup", *TASK, f"warmup.cache={folder}/cache", folder=folder, watch_memory=True)
            peak.write_text(repr(succeeded(run).peak_gib))
    return WarmUp(folder / "cache", float(peak.read_text()))


@pytest.fixture(scope="session")
def task(warm_up: WarmUp) -> list[str]:
    """Overrides of a run that begins with the finished warm-up."""
    return [*TASK, f"warmup.cache={warm_up.cache}"]


@pytest.fixture(scope="session")
def tiny(task: list[str]) -> list[str]:
    """The same for a run of which only the course matters: a step takes a fraction of a second."""
    return [*task, *TINY]


@dataclass(frozen=True)
class OnPolicy:
    steps: int
    arguments: list[str]  # of `thinkless train`, but for its name
    run: Path  # its finished folder


@pytest.fixture(scope="session")
def on_policy(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> OnPolicy:
    """A run on two samplers, strictly on-policy, that other ways to the same steps are compared with."""
    folder = tmp_path_factory.mktemp("on-policy")
    arguments = [*tiny, "rollout.prompts_per_step=12", "rollout.workers=2", "rollout.num_cpus=0.2"]
    arguments += ["run.steps=6", "run.max_staleness=0"]
    succeeded(thinkless("train", *arguments, "run.name=ours", folder=folder))
    return OnPolicy(6, arguments, folder / "runs" / "ours")
