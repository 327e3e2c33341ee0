"""Sweeps: what runs, what runs again, what is refused before anything starts, what the members are compared by."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from conf.compose import run_command, to_yaml
from conf.errors import BadConfig
from conf.flags import Flags
from conf.multirun import digest
from conf.schema import Config
from orchestrator.base import interrupt
from orchestrator.base.errors import RunError
from orchestrator.base.lock import holder, locked
from orchestrator.commands import cli, report
from orchestrator.commands.arguments import read
from orchestrator.jobs.job import HeadGone, Job
from orchestrator.jobs.working_dir import WorkingDir
from orchestrator.sweeps import outcome, prune, runner, state
from orchestrator.sweeps.results import write_outcome
from orchestrator.sweeps.runner import last_line
from orchestrator.sweeps.screen import Row, Screen, brief
from orchestrator.sweeps.sweep import Sweep
from rollout.base.errors import BadInput
from tests.helpers.composing import composed
from tests.helpers.killing import on_a_full_disk
from tests.helpers.scripted_head import ScriptedHead

GRID = ["experiment=quickstart", "algorithm.alpha=0.5,3", "run.seed=0,1", "hydra.launcher.max_parallel=3"]
FAST = ["hydra.launcher.poll_s=0.05", "run.root=runs"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, whose members are `tests.helpers.member`s."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(runner, "PROGRAM", (sys.executable, "-m", "tests.helpers.member"))
    return tmp_path


def sweep(*words: str) -> None:
    """`thinkless train --multirun`, in this process."""
    options = read("train", ["--multirun", *words, *FAST])
    flags = Flags.of(options)

    def single(conf: Config) -> None:
        raise AssertionError("a member ran in this process")

    run_command("train", single, options.overrides, flags, Sweep(["train", *words], flags))


def members(folder: Path) -> dict[str, state.MemberState]:
    return {one.run: one for one in state.load(folder)}


def calls(runs: Path) -> list[str]:
    """The words of every member that was started; forgotten once they are read."""
    path = runs / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


# ---- which members there are ----


def test_a_member_is_known_by_what_it_sets() -> None:
    one = digest(["algorithm.alpha=0.001", "run.seed=1"])
    assert one == digest(["run.seed=1", "algorithm.alpha=1e-3", "run.root=there", "sweep.prune=median"])
    assert one != digest(["run.seed=2", "algorithm.alpha=0.001"])


def test_a_failure_takes_no_other_member_along_and_the_same_command_runs_that_one_again(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "fails").write_text("grid-1 ")
    with pytest.raises(RunError, match=r"1 of 4 members failed \(grid-1: a scripted failure\)"):
        sweep(*GRID, "sweep.name=grid")
    folder = here / "runs" / "grid"
    assert [one.status for one in members(folder).values()] == ["finished", "failed", "finished", "finished"]
    assert "Traceback of a scripted failure" in (folder / "grid-1.log").read_text()
    assert len(calls(folder.parent)) == 4
    (folder.parent / "fails").unlink()
    sweep(*reversed(GRID), "sweep.name=grid")
    assert calls(folder.parent) == [f"resume={folder.parent}/grid-1"]
    assert {one.status for one in members(folder).values()} == {"finished"}
    sweep(*GRID, "sweep.name=grid")
    assert calls(folder.parent) == []


def test_a_larger_sweep_in_the_same_folder_runs_what_it_adds(here: Path) -> None:
    sweep("experiment=quickstart", "run.seed=1,2", "run.name=seeds")
    sweep("experiment=quickstart", "run.seed=1,2,3", "run.name=seeds")
    found = members(here / "runs" / "seeds")
    assert [*found] == ["seeds-0", "seeds-1", "seeds-2"] and len(calls(here / "runs")) == 3
    assert found["seeds-2"].overrides == ["experiment=quickstart", "run.seed=3"]


def test_a_sweep_without_a_name_has_a_folder_of_its_own(here: Path) -> None:
    for seeds in ("1,2", "2,1", "3"):
        sweep("experiment=quickstart", f"run.seed={seeds}")
    folders = {path.parent for path in (here / "runs").glob("*/sweep.yaml")}
    assert len(folders) == 3 and all(re.fullmatch(r"sweep-[0-9a-f]{8}", folder.name) for folder in folders)
    assert all((folder / "multirun.yaml").is_file() for folder in folders)


def test_no_other_plugin_of_hydras_need_be_installed(tmp_path: Path) -> None:
    """Optuna's sweeper, which brings the package that Hydra takes plugins from, is an extra."""
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra_plugins":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from tests.helpers.composing import composed
for name in ("a", "b"):
    members = composed("experiment=quickstart", "-m", "run.seed=1,2", f"run.name={name}")
    print([(one.run.seed, one.run.name) for one in members])
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "[(1, 'a-0'), (2, 'a-1')]\n[(1, 'b-0'), (2, 'b-1')]\n", done.stderr


# ---- what is refused, before anything starts ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.sede=1,2"], "unknown key 'run.sede'; did you mean 'run.seed'?"),
        (["run.seed=1,2", "sweep.obective=reward"], "unknown key 'sweep.obective'; did you mean 'sweep.objective'?"),
        (["run.seed=1,2", "learner.lr=1e-4,7"], "learner.lr must be in [1e-12, 1), got 7 (member"),
        (["run.seed=1,2", "data.shard=0,3"], "data.shard=3 must be below"),
        (["run.name=a,b"], "run.name belongs to the sweep as a whole"),
        (["run.seed=1,2", "sweep.name=../up"], "sweep.name='../up' must be made of"),
        (["run.seed=1,2", "sweep.objective=regret", "evaluate.final=false"], "needs the final evaluation"),
        (["run.seed=1,2", "sweep.objective=validation_accuracy", "evaluate.every=0"], "needs validations"),
        (["evaluate.every=0,1"], "would be compared by reward and validation_reward"),
        (["run.seed=1,2", "hydra.launcher.max_parallel=0"], "max_parallel must be at least 1"),
        (["hydra/sweeper=optuna", "learner.lr=interval(1e-5,2)"], "learner.lr must be in [1e-12, 1), got 2"),
        (["hydra/sweeper=optuna", "run.seed=1,2", "hydra.sweeper.direction=minimize"], "is to be maximized"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(here: Path, words: list[str], said: str) -> None:
    with pytest.raises((BadConfig, BadInput)) as refused:
        sweep("experiment=quickstart", *words)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not [*here.iterdir()]


def test_two_sweeps_do_not_share_a_folder(here: Path) -> None:
    sweep("experiment=quickstart", "run.seed=1", "sweep.name=one")
    before = (here / "runs" / "one" / "sweep.yaml").read_text()
    calls(here / "runs")
    with (
        locked(here / "runs" / "one" / ".lock"),
        pytest.raises((BadConfig, BadInput), match=r"is being run \(process \d+"),
    ):
        sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=one")
    assert (here / "runs" / "one" / "sweep.yaml").read_text() == before and calls(here / "runs") == []


def test_a_sweep_takes_no_folder_that_is_another_ones(here: Path) -> None:
    run = here / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("run: {}\n")
    with pytest.raises((BadConfig, BadInput), match="is a run's folder"):
        sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=mine")
    (here / "runs" / "other-1").mkdir()
    with pytest.raises(BadInput, match="other-1 exists and is none of this sweep's"):
        sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=other")
    assert {path.name for path in (here / "runs").iterdir()} == {"mine", "other-1"}


def test_another_objective_wants_another_folder(here: Path) -> None:
    sweep("experiment=quickstart", "run.seed=1", "sweep.name=one")
    with pytest.raises(BadInput, match="compares its members by validation_reward, not reward"):
        sweep("experiment=quickstart", "run.seed=2", "sweep.name=one", "sweep.objective=reward")


def test_an_unknown_sweep_is_one_line(here: Path) -> None:
    sweep("experiment=quickstart", "run.seed=1", "sweep.name=one")
    with pytest.raises(BadInput, match=r"no sweep 'two', neither as a path nor in .*; sweeps there: one"):
        report.main(read("report", ["sweep=two"]))
    (here / "runs" / "one" / "sweep.yaml").write_text("members: 3\n")
    with pytest.raises(BadInput, match=r"sweep\.yaml cannot be read"):
        report.main(read("report", ["sweep=one"]))


# ---- sweepers that want a number ----


def test_optuna_finds_the_best_and_asks_for_nothing_twice(here: Path) -> None:
    """The members' validation reward is alpha less a hundredth of the seed. Asked again, Optuna proposes the same."""
    words = ["experiment=quickstart", "hydra/sweeper=optuna", "algorithm.alpha=choice(0.5,1,2)", "run.seed=range(0,2)"]
    words += ["hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2", "hydra.launcher.max_parallel=2", "sweep.name=best"]
    sweep(*words)
    folder = here / "runs" / "best"
    found = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    values = [one.objective for one in members(folder).values()]
    assert found["best_value"] == max(value for value in values if value is not None)
    assert len(calls(folder.parent)) == len(values) and 1 < len(values) <= 5
    sweep(*words)
    assert calls(folder.parent) == []


def test_optuna_goes_on_when_a_member_fails(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "fails").write_text("some-0 ")
    words = ["experiment=quickstart", "hydra/sweeper=optuna", "algorithm.alpha=interval(0.5,2)", "sweep.name=some"]
    with pytest.raises(RunError, match="1 of 3 members failed"):
        sweep(*words, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    assert len(calls(here / "runs")) == 3
    (here / "runs" / "fails").write_text("none-0 none-1")
    with pytest.raises(RunError, match="2 of 2 members failed"):
        sweep(*words[:-1], "sweep.name=none", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")


# ---- members that end early ----


def test_the_median_rule() -> None:
    others = {"a": [(1, 0.1), (2, 0.5)], "b": [(1, 0.1), (2, 0.6)], "c": [(1, 0.1), (2, 0.9)]}
    low, high = [(1, 0.4), (2, 0.3)], [(1, 0.7), (2, 0.3)]
    assert [*prune.hopeless({**others, "d": low}, ["d"], 2, 3)] == ["d"]
    assert not prune.hopeless({**others, "d": high}, ["d"], 2, 3), "its best value counts"
    assert not prune.hopeless({**others, "d": low}, ["d"], 3, 3), "too early"
    assert not prune.hopeless({**others, "d": low}, ["d"], 2, 4), "too few others"
    assert not prune.hopeless({**others, "d": []}, ["d"], 0, 1)


def test_a_member_below_the_median_is_stopped(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "waits").write_text("prune-3")
    words = ["algorithm.alpha=3,2,1,0.5", "sweep.prune=median", "sweep.prune_after=2", "sweep.name=prune"]
    sweep("experiment=quickstart", *words)
    one = members(here / "runs" / "prune")["prune-3"]
    assert (one.status, one.objective) == ("pruned", 0.5) and "the median of 3 others 2" in (one.error or "")


@pytest.fixture
def signals() -> Iterator[Callable[[Path, int], None]]:
    """Sends this process signals once a file is there."""
    interrupt.install()

    def send(path: Path, times: int) -> None:
        def wait() -> None:
            while not path.is_file():
                time.sleep(0.02)
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)

        threading.Thread(target=wait, daemon=True).start()

    yield send
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_members_in_order_and_the_same_command_goes_on(
    here: Path, signals: Callable[[Path, int], None], times: int
) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "waits").write_text("seeds-0")
    (here / "runs" / "stubborn").write_text("seeds-0" if times == 2 else "")
    signals(here / "runs" / "seeds-0" / "metrics.jsonl", times)
    with pytest.raises(KeyboardInterrupt):
        sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    found = members(here / "runs" / "seeds")
    assert [one.status for one in found.values()] == ["stopped", "waiting"]
    assert (here / "runs" / "seeds" / "sweep.json").is_file()
    (here / "runs" / "waits").unlink()
    calls(here / "runs")
    interrupt.install()
    sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    assert calls(here / "runs")[0] == f"resume={here}/runs/seeds-0"
    assert {one.status for one in members(here / "runs" / "seeds").values()} == {"finished"}


def test_members_of_a_sweep_that_died_are_found_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One runs on, as its lock says, until the file that keeps it going is away."""
    runs = here / "runs"
    (runs / "seeds").mkdir(parents=True)
    (runs / "waits").write_text("seeds-0")
    own = ["experiment=quickstart", "run.seed=1"]
    one = state.MemberState(0, "seeds-0", own, "running")
    state.SweepState(runs / "seeds", "thinkless", "validation_reward", True, {digest(own): one}).save()
    orphan = runner.Process(["train", *own, "run.name=seeds-0", f"run.root={runs}"], runs / "seeds" / "seeds-0.log")
    while not (runs / "seeds-0" / "metrics.jsonl").is_file():
        assert orphan.ended() is None
        time.sleep(0.02)
    begun: list[Path] = []

    def finished(folder: Path) -> bool:
        begun.append(folder)
        return folder.name == "seeds-0"

    monkeypatch.setattr("orchestrator.sweeps.members.finished", finished)
    ended = runner.Adopted.ended

    def released(self: runner.Adopted) -> runner.Ended | None:
        (runs / "waits").unlink(missing_ok=True)
        return ended(self)

    monkeypatch.setattr(runner.Adopted, "ended", released)
    sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    assert runs / "seeds-0" in begun and len(calls(runs)) == 2
    assert [one.status for one in members(runs / "seeds").values()] == ["finished"] * 2


def test_a_member_that_outlasts_a_second_ctrl_c_and_finishes_is_counted(
    here: Path, signals: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = here / "runs"
    runs.mkdir()
    (runs / "waits").write_text("seeds-0")
    (runs / "deaf").write_text("seeds-0")
    monkeypatch.setattr("orchestrator.sweeps.sweep.END_S", 0.5)
    signals(runs / "seeds-0" / "metrics.jsonl", 2)
    with pytest.raises(KeyboardInterrupt):
        sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    assert [one.status for one in members(runs / "seeds").values()] == ["stopped", "waiting"]
    (runs / "waits").unlink()
    while holder(runs / "seeds-0" / ".lock"):
        time.sleep(0.02)
    interrupt.install()
    monkeypatch.setattr("orchestrator.sweeps.members.finished", lambda folder: folder == runs / "seeds-0")
    calls(runs)
    sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    assert len(calls(runs)) == 1
    found = members(runs / "seeds")
    assert [one.status for one in found.values()] == ["finished"] * 2 and found["seeds-0"].objective == -0.01


def test_a_member_whose_sweep_was_killed_before_it_came_up_is_not_started_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no run folder yet when the same command looks for it."""
    waits = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
    waits += "os.execv(sys.executable, [sys.executable, '-m', 'tests.helpers.member', *sys.argv[1:]])"
    (here / "runs" / "seeds").mkdir(parents=True)
    own, log = ["experiment=quickstart", "run.seed=1"], here / "runs" / "seeds" / "seeds-0.log"
    one = state.MemberState(0, "seeds-0", own)
    state.SweepState(log.parent, "thinkless", "validation_reward", True, {digest(own): one}).save()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "PROGRAM", (sys.executable, "-c", waits))
        orphan = runner.Process(["train", *own, "run.name=seeds-0", f"run.root={here / 'runs'}"], log)
    ended, first = runner.Adopted.ended, here / "runs" / "seeds-0"

    def looked_at(self: runner.Adopted) -> runner.Ended | None:
        (here / "go").touch()
        assert orphan.ended() is None or first.is_dir()  # reaped, as init does
        return ended(self)

    monkeypatch.setattr(runner.Adopted, "ended", looked_at)
    monkeypatch.setattr(
        "orchestrator.sweeps.members.finished", lambda folder: folder.name == "seeds-0" and folder.is_dir()
    )
    sweep("experiment=quickstart", "run.seed=1,2", "sweep.name=seeds")
    assert len(calls(here / "runs")) == 2
    assert [one.status for one in members(log.parent).values()] == ["finished"] * 2
    assert not [*log.parent.glob("*.lock")]


def test_members_whose_run_folders_are_deleted_between_two_calls(here: Path) -> None:
    """One that has finished keeps what it was worth; one that has failed begins anew."""
    runs = here / "runs"
    runs.mkdir()
    (runs / "fails").write_text("seeds-1")
    words = ["experiment=quickstart", "run.seed=1,2", "sweep.name=seeds"]
    with pytest.raises(RunError, match="1 of 2 members failed"):
        sweep(*words)
    for folder in ("seeds-0", "seeds-1"):
        shutil.rmtree(runs / folder)
    (runs / "fails").unlink()
    calls(runs)
    sweep(*words)
    (call,) = calls(runs)
    assert "run.seed=2" in call.split() and "resume" not in call
    found = members(runs / "seeds")
    assert {one.status for one in found.values()} == {"finished"} and found["seeds-0"].objective == -0.01
    assert json.loads((runs / "seeds" / "sweep.json").read_text())["best"]["run"] == "seeds-0"


def test_the_state_is_replaced_whole(compared: state.SweepState) -> None:
    """A disk that fills up while it is written leaves the state before."""
    before = (compared.folder / "sweep.yaml").read_text()
    next(iter(compared)).status = "running"
    assert on_a_full_disk(compared.save, len(before) // 2)
    assert (compared.folder / "sweep.yaml").read_text() == before
    assert {path.name for path in compared.folder.iterdir()} == {"sweep.yaml"}
    compared.save()
    assert state.load(compared.folder).members["0"].status == "running"


# ---- members as jobs: what a head answers, or does not ----


@pytest.fixture
def head(here: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedHead:
    monkeypatch.setenv("HOME", str(here))
    found = ScriptedHead(here / "thinkless")
    monkeypatch.setattr("orchestrator.jobs.client.connect", lambda address: found)
    monkeypatch.setattr("orchestrator.sweeps.jobs.collect", lambda folder, named: WorkingDir({}))
    (found.home / "runs").mkdir(parents=True)
    return found


JOBS = ["experiment=quickstart", "hydra/launcher=ray_jobs", "run.seed=1,2", "sweep.name=jobs"]


def test_what_is_wrong_with_one_job_is_no_other_members_affair(head: ScriptedHead) -> None:
    """One cannot be submitted, the log of one cannot be had, one is forgotten by its head."""
    head.refused, head.lost, head.forgotten = {"jobs-0"}, {"jobs-1"}, {"jobs-2"}
    folder = head.home / "runs" / "jobs"
    failures = r"2 of 3 members failed \(jobs-0: .* refused: no room for jobs-0; jobs-2: no job 'jobs-2'"
    words = ["run.seed=1,2,3" if word.startswith("run.seed") else word for word in JOBS]
    with pytest.raises(RunError, match=failures):
        sweep(*words)
    found = members(folder)
    assert [one.status for one in found.values()] == ["failed", "finished", "failed"]
    said = "the log of the job jobs-1 cannot be had: the Ray head at http://x refused: no agent on the node"
    assert found["jobs-1"].error == said and said in (folder / "jobs-1.log").read_text()
    assert "no room for jobs-0" in (folder / "jobs-0.log").read_text()
    assert "no job 'jobs-2'" in (folder / "jobs-2.log").read_text()
    while not head.jobs["jobs-2"].now().over:
        time.sleep(0.02)
    head.refused, head.forgotten = set(), set()
    sweep(*words)
    assert {one.status for one in members(folder).values()} == {"finished"}
    assert [*head.jobs] == ["jobs-1", "jobs-2", "jobs-0"], "the head knows the third again, which has finished"


def test_a_head_that_is_gone_for_a_moment(head: ScriptedHead, capsys: pytest.CaptureFixture[str]) -> None:
    head.gone = 3
    sweep(*JOBS)
    assert {one.status for one in members(head.home / "runs" / "jobs").values()} == {"finished"}
    said = "no Ray head answers at http://x; it is asked again for 60 s"
    assert len(head.jobs) == 2 and capsys.readouterr().err.count(said) == 1


def test_a_head_that_stays_away_ends_the_sweep_in_one_line(head: ScriptedHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sweeps.sweep.GONE_S", 0.1)
    runs = head.home / "runs"
    (runs / "waits").write_text("jobs-0 jobs-1")
    left = Counter[str]()

    def gone_when_two_run(job_id: str) -> Job:
        left[job_id] += 1
        head.gone = 10**6 if len(left) == 2 else 0
        return type(head).job(head, job_id)

    with monkeypatch.context() as patch, pytest.raises(HeadGone) as ended:
        patch.setattr(head, "job", gone_when_two_run)
        sweep(*JOBS)
    assert str(ended.value) == (
        "no Ray head answers at http://x; its jobs may run on, and the same command follows them"
    )
    assert [one.status for one in members(runs / "jobs").values()] == ["running", "waiting"]
    assert (runs / "jobs" / "sweep.json").is_file() and [*head.jobs] == ["jobs-0", "jobs-1"]
    head.gone = 0
    (runs / "waits").unlink()
    sweep(*JOBS)
    assert [one.status for one in members(runs / "jobs").values()] == ["finished"] * 2
    assert [*head.jobs] == ["jobs-0", "jobs-1"]


def test_a_job_that_was_submitted_and_not_noted_is_found_by_its_metadata(head: ScriptedHead) -> None:
    """The sweep is killed between the two: while the job runs, and when it has ended since."""
    runs = head.home / "runs"
    for number, ends in enumerate([False, True]):
        (runs / "waits").write_text("" if ends else f"jobs-{number}")
        head.submitted_last = SystemExit(9)
        with pytest.raises(SystemExit):
            sweep(*JOBS, "hydra.launcher.max_parallel=1")
        one = members(runs / "jobs")[f"jobs-{number}"]
        assert (one.status, one.job) == ("waiting", None)
        while ends and not head.jobs[f"jobs-{number}"].now().over:
            time.sleep(0.02)
        (runs / "waits").unlink()
    sweep(*JOBS)
    assert [one.status for one in members(runs / "jobs").values()] == ["finished"] * 2
    assert [*head.jobs] == ["jobs-0", "jobs-1"]


def test_a_job_of_the_same_name_that_is_none_of_the_sweeps(head: ScriptedHead) -> None:
    """A sweep whose folder was deleted while its jobs ran: they are not the new sweep's."""
    sweep(*JOBS)
    shutil.rmtree(head.home / "runs")
    (head.home / "runs").mkdir()
    sweep(*JOBS)
    assert [*head.jobs] == ["jobs-0", "jobs-1", "jobs-0.2", "jobs-1.2"]


# ---- warmup and evaluate ----

EVALUATION = """
import json, os, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
name = words["run.name"].strip('"')
print(" ".join(sys.argv[1:]), "begins", flush=True)
if name == "two":
    sys.exit("thinkless: no GPU is left")
def estimate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}
free = {"accuracy": estimate(0.5), "think_rate": estimate(0.25), "tokens": {"mean": estimate(20.5)}}
os.mkdir(name)
with open(name + "/evaluation.json", "w") as file:
    json.dump({"ways": {"free": {"all": free}}}, file)
print("written to", os.path.abspath(name))
"""


def test_runs_are_evaluated_one_by_one_and_a_failure_skips_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "PROGRAM", (sys.executable, "-c", EVALUATION))
    (conf,) = composed("experiment=quickstart")
    for name in ("one", "two", "three"):
        (here / "runs" / name / "model").mkdir(parents=True)
        for file in ("config.json", "tokenizer_config.json"):
            (here / "runs" / name / "model" / file).touch()
        (here / "runs" / name / "config.yaml").write_text(to_yaml(conf))
    words = ["--multirun", "--dial", "run.name=one,two,three", "evaluate.seed=7"]
    with pytest.raises(RunError, match=r"^1 of 3 failed: name=two; why is said above$"):
        cli.run("evaluate", words)
    found = capsys.readouterr()
    assert [line.split() for line in found.out.splitlines()] == [
        ["member", "accuracy", "95", "%", "thinks", "tokens"],
        ["name=one", "0.500", "0.400..0.600", "25", "%", "20.5"],
        ["name=two", "failed"],
        ["name=three", "0.500", "0.400..0.600", "25", "%", "20.5"],
    ]
    assert "no GPU is left" in found.err and found.err.count(" evaluate.seed=7 begins") == 3
    assert len(re.findall(r"^evaluate --dial .* begins$", found.err, re.M)) == 3
    for wrong, said in {"run.name=one,four": "no run 'four'", "hydra/launcher=ray_jobs": "takes no hydra/"}.items():
        with pytest.raises((BadInput, BadConfig), match=said):
            cli.run("evaluate", [*words, wrong])
    with pytest.raises(BadConfig, match=r"must be in .*, got 7"):
        cli.run("warmup", ["--multirun", "experiment=quickstart", "warmup.seed=1,2", "warmup.lr=1e-3,7"])
    assert "begins" not in capsys.readouterr().err


# ---- what it found ----


def test_student_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in [*range(1, 40), 100, 1000]:
        assert outcome.t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-4)


def test_the_spread_over_seeds() -> None:
    one = outcome.spread([1.0, 2.0, 3.0])
    assert one is not None and (one.count, one.mean, one.deviation) == (3, 2.0, 1.0)
    assert one.low == pytest.approx(2 - 4.3027 / 3**0.5) and one.high == pytest.approx(2 + 4.3027 / 3**0.5)
    assert outcome.spread([]) is None and outcome.spread([4.0]) == outcome.Spread(1, 4.0, None, None, None)


@pytest.fixture
def compared(tmp_path: Path) -> state.SweepState:
    """Two settings with two seeds each and one that failed; accuracy and tokens such that both are on the front."""
    found = state.SweepState(tmp_path / "mine", "thinkless train --multirun ...", "validation_reward", True)
    found.folder.mkdir()
    for number, (alpha, seed, reward, accuracy, tokens) in enumerate(
        [(1, 0, 0.5, 0.8, 20), (1, 1, 0.7, 0.8, 20), (3, 0, 0.1, 0.9, 40), (3, 1, 0.2, 0.9, 40), (9, 0, 0.9, 0.7, 40)]
    ):
        one = state.MemberState(number, f"mine-{number}", ["experiment=quickstart", f"algorithm.alpha={alpha}"])
        one.overrides.append(f"run.seed={seed}")
        one.status, one.objective, one.error = ("finished", reward, None) if number < 4 else ("failed", None, "<broke>")
        found.members[str(number)] = one
        run = found.run_folder(one)
        run.mkdir()
        line = {"step": 2, "validation/reward": reward, "validation/accuracy": accuracy, "validation/tokens": tokens}
        (run / "metrics.jsonl").write_text(
            json.dumps({"step": 0, "validation/reward": 0.0}) + f"\n{json.dumps(line)}\n"
        )
    found.save()
    return found


def test_members_that_differ_in_their_seed_are_one_row(compared: state.SweepState) -> None:
    lines = write_outcome(compared)
    written = json.loads((compared.folder / "sweep.json").read_text())
    first, second, third = written["groups"]
    assert written["parameters"] == ["algorithm.alpha"] and written["best"]["run"] == "mine-1"
    assert (first["parameters"], first["members"]) == ({"algorithm.alpha": "1"}, ["mine-0", "mine-1"])
    assert first["objective"]["mean"] == pytest.approx(0.6) and second["objective"]["mean"] == pytest.approx(0.15)
    assert third["objective"] is None and third["members"] == ["mine-4"]
    assert [group["on_pareto_front"] for group in written["groups"]] == [True, True, False]
    assert lines[0].startswith("best member: mine-1, validation_reward 0.700 (algorithm.alpha=1 run.seed=1)")


def test_the_page_shows_all_of_it(compared: state.SweepState, capsys: pytest.CaptureFixture[str]) -> None:
    report.main(read("report", [f"sweep={compared.folder}"]))
    assert "sweep.html" in capsys.readouterr().out
    page = (compared.folder / "sweep.html").read_text()
    assert "Most validation reward 0.600 over 2 seeds (95 % interval" in page and "algorithm.alpha = 1" in page
    assert page.count("<svg") == 2 and page.count("on it") == 2 and "&lt;broke&gt;" in page
    assert all(f'href="../mine-{number}/report.html"' in page for number in range(5))
    assert "://" not in re.sub(r'xmlns="[^"]*"|http://www.w3.org/2000/svg', "", page), "nothing is fetched"


def test_a_sweep_in_which_nothing_has_finished_has_a_page(compared: state.SweepState) -> None:
    for one in compared:
        one.status, one.objective = "running", None
    write_outcome(compared)
    assert "No member has finished yet." in (compared.folder / "sweep.html").read_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    return Terminal()


def test_one_screen_shows_all_members(compared: state.SweepState, terminal: Terminal) -> None:
    """In as many columns as there are, without what all members share."""
    Screen(compared, terminal).show({"mine-1": Row(7, 120, 0.5, 0.25)})
    assert terminal.getvalue().splitlines() == [
        "mine: 5 members: 4 finished, 1 failed; objective: validati…",
        "member  status     step  thinks  objective",
        "mine-0  finished                     +0.50  alpha=1 seed=0",
        "mine-1  finished  7/120    50 %      +0.25  alpha=1 seed=1",
        "mine-2  finished                     +0.10  alpha=3 seed=0",
        "mine-3  finished                     +0.20  alpha=3 seed=1",
        "mine-4  failed                              <broke>",
    ]
    assert brief(["learner.lr=1", "warmup.lr=2", "run.seed=0"]) == ["learner.lr=1", "warmup.lr=2", "seed=0"]


def test_a_member_without_steps_is_shown_with_what_it_does(
    compared: state.SweepState, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    log = tmp_path / "a.log"
    assert last_line(log) == ""
    log.write_text("x" * 5000 + "\nloading the vLLM engines\n\n")
    Screen(compared, terminal).show({"mine-1": Row(0, 9, None, None, last_line(log))})
    assert terminal.getvalue().splitlines()[3].endswith("alpha=1 seed=1 · loading the vLLM engines")


def test_a_screen_with_more_members_than_lines(
    compared: state.SweepState, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that run come first, then those that failed, the newest of the others, those that wait. It is never as high
    as the terminal, which would scroll; what is said stays above it, what another wrote below it stays as well."""
    monkeypatch.setenv("LINES", "7")
    for number in range(5, 40):
        one = state.MemberState(number, f"mine-{number}", ["run.seed=5"], "waiting")
        compared.members[str(number)] = one
    compared.members["1"].status = "running"
    screen = Screen(compared, terminal)
    screen.show({})
    lines = terminal.getvalue().splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["mine-1", "mine-3", "mine-4"]
    assert lines[5:] == ["and 2 finished, 35 waiting"]
    screen.say("mine-1 finished")
    assert terminal.getvalue().endswith("waiting\n\x1b[6A\x1b[Jmine-1 finished\n")
    screen.show({})
    screen.leave()
    screen.say("told")
    assert terminal.getvalue().endswith("waiting\ntold\n")


def test_in_a_pipe_a_sweep_writes_lines_alone(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=quickstart", "hydra/sweeper=optuna", "algorithm.alpha=choice(1,2)", "sweep.name=lines"]
    sweep(*words, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    found = capfd.readouterr()
    assert "\x1b" not in found.out + found.err and "\r" not in found.out + found.err
    assert found.out.count("sweep folder: ") == 1
    assert re.fullmatch(r"(lines-\d (started: .*alpha=\d.*|finished: validation_reward \d)\n)+", found.err)
