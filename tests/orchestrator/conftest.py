"""Fixtures of whole runs: one warm-up for all of them, and settings under which a run takes seconds."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.decoys import decoys_run, put_decoys
from tests.helpers.launched import RUNNING, SOON, Watched, succeeded, thinkless
from tests.helpers.runs import SAVE_EVERY, TASK, TINY, checkpoints, restarts, steps

SECRETS = ("pa55word-of-the-tests", "key-0123456789-of-the-tests")  # in an override; in the environment


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
    model: Path  # in the cache


@pytest.fixture(scope="session")
def warm_up(tmp_path_factory: pytest.TempPathFactory) -> WarmUp:
    """`thinkless warmup`, done once; its cache serves every run here, those of the other test process as well."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "warm-up"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first makes it, the other waits
        peak = folder / "peak_gib"
        model = folder / "model"
        if not peak.is_file():
            run = thinkless("warmup", *TASK, f"warmup.cache={folder}/cache", folder=folder, watch_memory=True)
            gib = succeeded(run).peak_gib
            (only,) = (folder / "cache").glob("*/warmup.json")  # other tests may add others
            model.write_text(str(only.parent))
            peak.write_text(repr(gib))
    return WarmUp(folder / "cache", float(peak.read_text()), Path(model.read_text()))


@pytest.fixture(scope="session")
def task(warm_up: WarmUp) -> list[str]:
    """Overrides of a run that begins with the finished warm-up."""
    return [*TASK, f"warmup.cache={warm_up.cache}"]


@pytest.fixture(scope="session")
def tiny(task: list[str]) -> list[str]:
    """The same for a run of which only the course matters: a step takes a fraction of a second."""
    return [*task, *TINY]


# ---- two samplers and two learner ranks: interrupted, killed; left alone, and in turns ----


@pytest.fixture(scope="session")
def two_of_each(tiny: list[str]) -> list[str]:
    """Arguments of a run with checkpoints, validations and log-prob checks in between; run.steps is to be given."""
    settings = [one for one in tiny if not one.startswith("evaluate.every")]
    settings += [f"run.save_every={SAVE_EVERY}", "evaluate.every=2", "evaluate.questions=8", "validation.size=8"]
    settings += ["rollout.prompts_per_step=8"]
    return [*settings, "rollout.workers=2", "learner.ranks=2", "rollout.num_cpus=0.2", "learner.num_cpus=0.2"]


ACTORS = ("ray::RolloutWorker", "ray::RewardWorker", "ray::LearnerWorker")


@dataclass(frozen=True)
class Course:
    """A run that was ended from outside."""

    run: Watched
    folder: Path
    checkpoint: int  # the newest, as a step, when it was interrupted
    compared: int = 0  # steps to compare with the run that was left alone
    listening: Mapping[str, str] = field(default_factory=dict)  # where it accepted connections, and which process


@pytest.fixture(scope="session")
def interrupted(two_of_each: list[str], tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Ctrl-C in training, after the first checkpoint."""
    where = tmp_path_factory.mktemp("interrupted")
    endless = ["run.steps=100000", "run.name=mine", "rollout.max_restarts=2"]
    run, folder = Watched(["train", *two_of_each, *endless], where), where / "runs" / "mine"
    run.until(lambda: checkpoints(folder), "the first checkpoint")
    listening = run.listening()
    run.interrupt(signal.SIGINT)
    run.wait(SOON)
    return Course(run, folder, max(checkpoints(folder)), listening=listening)


@pytest.fixture(scope="session")
def killed(interrupted: Course, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The interrupted run goes on. kill -9 its first sampler, its reward actor and its second learner rank, which all
    start again; then a learner rank once more, which may not."""
    folder, begin = tmp_path_factory.mktemp("killed") / "mine", interrupted.checkpoint
    shutil.copytree(interrupted.folder, folder)
    run = Watched(["train", f"resume={folder}", "learner.max_restarts=1"], folder.parent)
    run.until(lambda: max(steps(folder), default=0) > begin, "a step")
    before = [pid for title in ACTORS for pid in run.titled(title)]
    assert len(before) == 2 + 1 + 2
    for title, index in zip(ACTORS, (0, 0, 1), strict=True):
        os.kill(run.titled(title)[index], signal.SIGKILL)
    run.until(
        lambda: len({pid for title in ACTORS for pid in run.titled(title)} - {*before}) == 1 + 1 + 2, "new actors"
    )
    again = max(steps(folder))
    run.until(lambda: max(steps(folder)) >= max(again + 2, begin + 4), "steps with the new actors")
    run.until(lambda: any(restarts(folder)) and any(restarts(folder, "reward/")), "the restarts among the figures")
    os.kill(run.titled("ray::LearnerWorker")[1], signal.SIGKILL)
    return Course(run.wait(SOON), folder, begin, again + 2)


@pytest.fixture(scope="session")
def colocated(two_of_each: list[str], killed: Course, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, colocated: samplers and ranks take turns. kill -9 a sampler and a rank at a time: the
    new sampler has an engine when it is the samplers' turn again."""
    where = tmp_path_factory.mktemp("colocated")
    more = [f"run.steps={killed.compared}", "run.name=mine", "cluster.placement=colocated"]
    run = Watched(["train", *two_of_each, *more, "rollout.max_restarts=1", "learner.max_restarts=1"], where)
    folder = where / "runs" / "mine"
    run.until(lambda: max(steps(folder), default=0) >= 3, "steps, after which the learner's state has been kept")
    for title in ("ray::RolloutWorker", "ray::LearnerWorker"):
        os.kill(run.titled(title)[1], signal.SIGKILL)
    succeeded(run.wait())
    return folder


# ---- plain GRPO one batch ahead: trained (test_train), recorded and done again (test_replay) ----


@pytest.fixture(scope="session")
def members(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A multirun of two: GRPO one batch ahead, on two learner ranks, with weights taken between sequences and two steps
    recorded; then the same with a reward function that says nothing. Neither files with the names of libraries beside
    it are run, nor are secrets written anywhere."""
    folder = tmp_path_factory.mktemp("multirun")
    (folder / "my_reward.py").write_text("def constant(problem, response, answer, mode):\n    return 1.0\n")
    put_decoys(folder)
    ahead = ["run.max_staleness=1", "rollout.on_weight_sync=drain", "algorithm.importance=truncate"]
    overrides = ["algorithm=grpo", *ahead, "learner.ranks=2", "run.steps=4", "run.save_every=2"]
    overrides += ["run.record=[1,3]", "reward.function=null,my_reward:constant", "run.name=ahead"]
    overrides += [f"distill.think.endpoint=https://me:{SECRETS[0]}@teacher.invalid/v1"]
    succeeded(
        thinkless("train", "--multirun", *tiny, *overrides, folder=folder, environment={"MY_API_KEY": SECRETS[1]})
    )
    assert not decoys_run(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]  # of both runs, of the sweep, and what was printed
    assert not [path for path in files if any(one.encode() in path.read_bytes() for one in SECRETS)]
    first, second = (folder / "runs" / name for name in ("ahead-0", "ahead-1"))
    return first, second
