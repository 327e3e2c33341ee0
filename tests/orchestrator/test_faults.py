"""What goes wrong while it runs: interruptions, killed actors, stuck ones. Each ends soon, says one clear line and
leaves nothing behind.

The run that is interrupted is resumed, and the resumed one loses a sampler and a learner rank (conftest.py): so its
start shows that the checkpoint before it was good.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.metric_list import WARM_UP
from orchestrator.training.warmup_evaluation import FILE as EVALUATIONS
from tests.helpers.launched import SOON, Watched, one_line_error, succeeded, thinkless
from tests.helpers.runs import SAVE_EVERY, TASK, TINY, checkpoints, read_lines, records, restarts, steps

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]

SHORT_WARM_UP, EVALUATE_EVERY = 100, 40  # steps
HANG_S = 30  # without a sign of life: also on a machine that is busy with other things


# ---- interrupted ----


def test_an_interrupted_run_saves_its_steps_and_its_report(interrupted: Any) -> None:
    """The steps that are done are saved, and the report is written, before anything else ends."""
    run, folder, done = interrupted.run, interrupted.folder, interrupted.checkpoint
    assert run.returncode == 130 and one_line_error(run) == "thinkless: interrupted"
    assert done == steps(folder)[-1]
    said = run.err.index(f"the checkpoint of step {done} is saved; to go on from it: ")
    assert f"train resume={folder}\n" in run.err[said:]
    assert run.err.index("a second Ctrl-C ends it at once") < said
    assert (folder / "report.html").is_file() and f"report: {folder / 'report.html'}" in run.out
    assert 1 <= len(checkpoints(folder)) <= 2
    assert (folder / "checkpoints" / f"step_{done:06d}" / "state.json").is_file()
    assert not list(folder.glob(".*")) and not (folder / "model").exists()


def test_a_private_run_listens_on_loopback_alone(interrupted: Any) -> None:
    """Ray's processes, metrics, samplers, and the ranks with their store and gloo's connections."""
    listening = interrupted.listening
    assert not {where: who for where, who in listening.items() if not where.startswith("127.")}
    said = " ".join(listening.values())
    assert all(one in said for one in ("gcs_server", "raylet", "ray::LearnerWorker", "ray::RolloutWorker")), listening


# ---- actors are killed ----


def test_a_learner_rank_killed_too_often_is_named(killed: Any) -> None:
    """Not what the others said when the connection to it was lost."""
    run, folder, begin = killed.run, killed.folder, killed.checkpoint
    assert f"going on from step {begin}" in run.out
    line = one_line_error(run)
    assert run.returncode == 1 and re.match(r"thinkless: learner rank [01] died, and the ", line), line
    assert "ranks had been started again as often as learner.max_restarts=1 allows" in line
    again = line.partition("to go on from it: ")[2]
    assert again.endswith(f"thinkless train resume={folder}")
    assert len(line) - len(again) < 600  # with what the other rank said of the lost connection, cut short
    assert steps(folder) == [*range(1, len(steps(folder)) + 1)] and len(steps(folder)) >= begin + 4
    due = (begin + 1) // SAVE_EVERY * SAVE_EVERY  # wherever the interruption saved; a later one may not be written yet
    assert checkpoints(folder)[-1] >= due


def test_interruption_and_restarted_actors_change_no_bit(killed: Any, colocated: Path) -> None:
    """Steps before and after: the same losses, to the last bit. The new sampler takes the current weights itself and
    samples its requests once more, seed for seed; the new reward actor grades what the lost one had not; the new
    learner ranks have the state of the last finished update, and make the interrupted one with the same batch."""
    mine, other = ([row.get("loss/total") for row in records(folder)] for folder in (killed.folder, colocated))
    assert killed.checkpoint + 1 < killed.compared == len(other)
    assert mine[: len(other)] == other and any(other[-3:])


def test_each_restart_is_said_and_counted_once(killed: Any) -> None:
    assert sum(counts := restarts(killed.folder)) == 1 and len(counts) > 4  # two samplers
    assert sum(counts := restarts(killed.folder, "reward/")) == 1 and len(counts) > 2
    assert restarts(killed.folder, "learner") == [1]
    said = r"^warning: learner rank [01] died: all ranks start again, .+ \(restart 1, learner.max_restarts=1\)$"
    assert len(re.findall(said, killed.run.err, re.M)) == 1 == killed.run.err.count("all ranks start again")


@pytest.mark.bench
def test_stopped_actors_are_killed_and_named_and_change_no_bit(
    interrupted: Any, colocated: Path, tmp_path: Path
) -> None:
    """SIGSTOP of a sampler, then of a learner rank."""
    folder = tmp_path / "mine"
    shutil.copytree(interrupted.folder, folder)
    last = max(steps(colocated))
    limits = [f"cluster.hang_s={HANG_S}", "learner.max_restarts=1", f"run.steps={last}"]
    run, begin = Watched(["train", f"resume={folder}", *limits], tmp_path), max(steps(folder))
    run.until(lambda: max(steps(folder)) > begin, "a step")
    for title in ("ray::RolloutWorker", "ray::LearnerWorker"):
        os.kill(stopped := run.titled(title)[1], signal.SIGSTOP)
        run.until(partial(_replaced, run, title, stopped), "another one in its place")
    succeeded(run.wait())
    named = re.findall(r"^warning: (.+) \d is killed: it had made no progress for \d+ s", run.err, re.M)
    assert named == ["rollout worker", "learner rank"], run.err[-3000:]
    mine, other = ([row.get("loss/total") for row in records(one)] for one in (folder, colocated))
    assert mine == other


# ---- Ray itself dies or is stopped ----


@pytest.mark.parametrize(
    ("program", "number", "what"),
    [
        pytest.param("raylet", signal.SIGSTOP, "has been stopped for", marks=pytest.mark.bench),
        pytest.param("raylet", signal.SIGKILL, "has died", marks=pytest.mark.bench),
        pytest.param("gcs_server", signal.SIGSTOP, "has been stopped for", marks=pytest.mark.bench),
        pytest.param("gcs_server", signal.SIGKILL, "has died", marks=pytest.mark.bench),
    ],
)
def test_a_lost_ray_is_named_and_ends_the_run(
    interrupted: Any, tmp_path: Path, program: str, number: int, what: str
) -> None:
    """With its last step where the GCS is lost. Without the raylet no weights are sent any more, so that no step gets
    complete; and learner ranks die with it."""
    folder = tmp_path / "mine"
    shutil.copytree(interrupted.folder, folder)
    run, begin = Watched(["train", f"resume={folder}"], tmp_path), max(steps(folder))
    run.until(lambda: max(steps(folder), default=0) > begin, "a step")
    os.kill(_program(run, program), number)
    run.wait()
    line, (said, *_) = one_line_error(run), re.findall(r"^(.+ of Ray at .+)$", run.err, re.M)
    name = {"raylet": "the raylet", "gcs_server": "the GCS"}[program]
    assert run.returncode == 1 and line.startswith(f"thinkless: {name} (process ") and what in line, run.err[-3000:]
    assert said.startswith(name) and line.endswith(f"thinkless train resume={folder}")
    assert f"the last checkpoint is of step {checkpoints(folder)[-1]}; to go on from it: " in line
    if program == "gcs_server":
        assert checkpoints(folder)[-1] == steps(folder)[-1]


@pytest.mark.bench
def test_a_second_signal_ends_a_run_whose_ray_is_stopped(interrupted: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(interrupted.folder, folder)
    run, begin = Watched(["train", f"resume={folder}"], tmp_path), max(steps(folder))
    run.until(lambda: max(steps(folder), default=0) > begin, "a step")
    os.kill(_program(run, "raylet"), signal.SIGSTOP)
    run.interrupt(signal.SIGTERM)
    run.until(lambda: "interrupted: " in run.err, "the promise")
    run.interrupt(signal.SIGTERM)
    run.wait(SOON)
    assert run.returncode == 143 and one_line_error(run).startswith("thinkless: interrupted")


SLOW = """
import os, signal, sys, threading, time
from conf.schema import ClusterConf
from orchestrator.base.processes import processes, words
from orchestrator.cluster.cluster import Cluster
from orchestrator.commands.cli import guarded

def stop():
    while not (found := [one for one in processes() if one.parent == os.getpid() and "raylet" in words(one.pid)[0]]):
        time.sleep(0.01)
    os.kill(found[0].pid, signal.SIGSTOP)

def body():
    threading.Thread(target=stop, daemon=True).start()
    with Cluster(ClusterConf(object_store_gib=0.1, start_timeout_s=5.0)):
        pass

sys.exit(guarded(body))
"""


@pytest.mark.bench
def test_a_ray_that_does_not_start_is_one_clear_line(tmp_path: Path) -> None:
    """And nothing of it stays."""
    program = [sys.executable, "-c", SLOW]
    line = one_line_error(Watched([], tmp_path, {"PYTHONPATH": str(ROOT)}, program).wait())
    assert line.startswith("thinkless: a private Ray did not start in time (The current node timed out"), line


DYING = """
import os, signal, sys, threading, time
from conf.schema import ClusterConf
from orchestrator.base.processes import processes, words
from orchestrator.cluster.cluster import Cluster
from orchestrator.commands.cli import guarded
from rollout.base.errors import BadInput

def kill(cluster):
    while not cluster._watch._ending:
        time.sleep(0.001)
    for one in processes():
        if one.parent == os.getpid() and words(one.pid)[0].endswith("/gcs_server"):
            os.kill(one.pid, signal.SIGKILL)

def body():
    with Cluster(ClusterConf(object_store_gib=0.1)) as cluster:
        threading.Thread(target=kill, args=[cluster], daemon=True).start()
        print("all is done")
        if sys.argv[1] == "fails":
            raise BadInput("this is wrong; mend it")

sys.exit(guarded(body))
"""


@pytest.mark.bench
@pytest.mark.parametrize("how", ["ends", "fails"])
def test_a_ray_that_dies_while_it_is_ended_changes_no_outcome(tmp_path: Path, how: str) -> None:
    run = Watched([how], tmp_path, {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", DYING]).wait(SOON)
    assert "all is done" in run.out and not run.left()
    if how == "ends":
        assert run.returncode == 0 and not run.error_lines, run.err[-3000:]
    else:
        assert one_line_error(run) == "thinkless: this is wrong; mend it"


def _replaced(run: Watched, title: str, pid: int) -> bool:
    there = run.titled(title)
    return pid not in there and len(there) == 2


def _program(run: Watched, name: str) -> int:
    """The process of a run's private Ray that runs this program."""
    (pid,) = (pid for pid, title in run.alive().items() if title.split()[0].endswith(f"/{name}"))
    return pid


# ---- a reward function that fails ----

FAULTY = """
def score(problem, response, answer, mode):
    return answer.missing
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run that cannot be graded, from a short warm-up of its own."""
    where = tmp_path_factory.mktemp("faulty")
    (where / "my_scores.py").write_text(FAULTY)
    few = ["evaluate.final=true", "evaluate.questions=2", "evaluate.every=1", "validation.size=4", "run.save_every=1"]
    own = [f"warmup.steps={SHORT_WARM_UP}", "warmup.cache=cache", "run.name=mine", "reward.function=my_scores:score"]
    return thinkless("train", *TASK, *TINY, "run.steps=100000", *few, *own, folder=where)


def test_a_failing_reward_function_is_reported_and_ends_the_run(faulty: Watched) -> None:
    """First in the evaluation of what training starts from, which then shows no accuracy; training ends soon."""
    run, line, folder = faulty, one_line_error(faulty), faulty.folder / "runs" / "mine"
    cause = f"reward.function=my_scores:score: AttributeError: 'str' object has no attribute 'missing' ({run.folder}"
    assert run.returncode == 1 and f"{cause}/my_scores.py:3)" in line
    assert line.startswith(
        "thinkless: step 3: no verdict on any of 16 answers (16 raised), more than reward.max_unjudged"
    )
    assert "for 3 steps in a row" in line and "the last checkpoint is of step 2" in line
    for when in ("evaluation of the warmup model, free", "validation at step 0", "step 1", "step 3"):
        assert run.err.count(f"\n{when}: no verdict on any of ") == 1, run.err[-3000:]
    assert run.err.count(f"  {cause}") == 1
    rows = read_lines(folder / "metrics.jsonl")
    trained = [row for row in rows if "seconds/step" in row]
    assert [(row["unjudged"], row["unjudged/raised"], row["accuracy/all"]) for row in trained] == [(16, 16, None)] * 3
    assert [row["validation/unjudged"] for row in rows if "validation/unjudged" in row] == [4] * 3
    levels = json.loads((folder / "evaluation.json").read_text())["models"]["warmup"]["free"]
    assert {(one["n"], one["unjudged"], one["accuracy"]) for one in levels.values()} == {(0, 2, None)}
    assert "my_scores.py:3), on problem arithmetic/" in (folder / "report.html").read_text()
    first, *_ = read_lines(folder / "unjudged.jsonl")
    assert first["during"].startswith("evaluation") and "answer.missing" in first["traceback"]


# ---- an interrupted warm-up ----

IN_TURNS = ["cluster.placement=colocated", "rollout.workers=2", "learner.ranks=2"]


@pytest.mark.bench
@pytest.mark.parametrize("then", [[], IN_TURNS], ids=["apart", "colocated"])
def test_a_resumed_warm_up_ends_in_the_same_weights(faulty: Watched, tmp_path: Path, then: list[str]) -> None:
    """kill: no run stays, since nothing of it was learnt; the warm-up's steps do, and are not done again. The same
    warm-up, of which nobody took anything, is that of the run above. This one is evaluated, before it is interrupted on
    processors of its own and afterwards `then`: no weight differs."""
    short, cache = [*TASK, f"warmup.steps={SHORT_WARM_UP}", "warmup.cache=cache"], tmp_path / "cache"
    short += [f"warmup.evaluate_every={EVALUATE_EVERY}", "warmup.evaluate_questions=32", "rollout.kv_cache_gib=0.25"]
    run = Watched(["train", *short, "run.name=mine"], tmp_path)
    run.until(lambda: any(path.read_text() for path in cache.glob(f".*.partial/{EVALUATIONS}")), "an evaluation")
    assert (tmp_path / "runs" / "mine" / "config.yaml").is_file()  # `report` and `resume` know of it
    run.interrupt(signal.SIGTERM)
    run.wait(SOON)
    assert run.returncode == 143 and one_line_error(run) == (
        f"thinkless: interrupted; no training step had finished, and {tmp_path}/runs/mine is removed; the same command "
        "begins again"
    )
    assert "interrupted: the warm-up's finished steps are being saved; a second Ctrl-C ends it at once" in run.err
    assert not list((tmp_path / "runs").iterdir())
    (kept,) = cache.glob(".*.partial/checkpoints/step_*")
    done = int(kept.name.removeprefix("step_"))
    assert EVALUATE_EVERY <= done < SHORT_WARM_UP
    assert f"the warm-up's {done} of {SHORT_WARM_UP} steps are saved" in run.err
    before = (kept.parent.parent / EVALUATIONS).read_text()
    assert f"warm-up: evaluation at step {EVALUATE_EVERY}: thinks " in run.err

    again = succeeded(thinkless("warmup", *short, *then, folder=tmp_path))
    assert f"warm-up: goes on from step {done} of {SHORT_WARM_UP}" in again.out
    (here,), (there,) = ([p.parent for p in where.glob("*/warmup.json")] for where in (cache, faulty.folder / "cache"))
    assert here.name == there.name and [path.name for path in cache.iterdir()] == [here.name]
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    logs = [read_lines(f / "warmup.jsonl") for f in (here, there)]
    assert [(row["step"], row["loss"]) for row in logs[0]] == [(row["step"], row["loss"]) for row in logs[1]]

    assert (here / EVALUATIONS).read_text().startswith(before)  # what was evaluated is not evaluated again
    lines = read_lines(here / EVALUATIONS)
    due = [*range(EVALUATE_EVERY, SHORT_WARM_UP, EVALUATE_EVERY), SHORT_WARM_UP]
    assert [line["step"] for line in lines] == due
    keys = [metric.key for metric in WARM_UP[EVALUATIONS] if "mode_rate" not in metric.key]  # of more than two modes
    patterns = [re.sub(r"{\w+}", r"[^/]+", key) for key in keys]
    for line in lines:
        assert not [key for key in line if not any(re.fullmatch(pattern, key) for pattern in patterns)]
        assert not [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in line)]
        assert line["validation/answers"] == 3 * 32 and line["validation/unjudged"] == 0
    last = json.loads((here / "warmup.json").read_text())["evaluation"]
    assert last.items() >= lines[-1].items() and (last["source"], last["questions"]) == ("arithmetic", 32)
    assert 0.2 < last["validation/think_rate"] < 0.8 and last["validation/no_mode"] < 0.2
    assert last["validation/tokens/forced/think"] > 2 * last["validation/tokens/forced/short"]
    assert "evaluation" not in json.loads((there / "warmup.json").read_text())


# ---- waiting, for real actors ----


class Body:
    """An actor's body that fails on request."""

    def __init__(self, fault: str = ""):
        from orchestrator.base.errors import RunError
        from rollout.base.errors import BadInput

        if fault == "bad input":
            raise BadInput("the folder is empty; fill it")
        if fault == "broken":
            raise ZeroDivisionError("by zero")
        if fault == "slow":
            self.sleep(3600.0)
        self.error_type = RunError

    def ready(self) -> int:
        return 1

    def close(self) -> None: ...

    def sleep(self, seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    def grade_request(self, value: float) -> float:
        return value

    def fail(self, kind: str) -> None:
        from rollout.base.errors import BadInput

        raise {"bad input": BadInput("mend it"), "disk": OSError(28, "No space left on device")}[kind]

    def die(self) -> None:
        os._exit(1)

    def abort(self, seconds: float) -> None:
        self.sleep(seconds)
        os.abort()


@pytest.fixture(scope="module")
def place() -> Iterator[Callable[..., Any]]:
    """`place(body, *arguments)`: a `Handle` of a real actor in a private Ray."""
    from conf.schema import ClusterConf, RewardConf
    from orchestrator.cluster.cluster import Cluster

    with Cluster(ClusterConf(object_store_gib=0.1)) as cluster:

        def make(*arguments: Any) -> Any:
            return cluster.reward_actors(RewardConf(num_cpus=0.01), _shipped(), list(arguments))[0]

        make.cluster = cluster  # type: ignore[attr-defined]
        yield make


def _shipped() -> type:
    """`Body` by value: this test file is no module that a worker could import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(__import__("sys").modules[Body.__module__])
    return Body


def test_a_stuck_actor_is_named_with_its_call(place: Callable[..., Any]) -> None:
    from orchestrator.base.errors import WaitedTooLong
    from orchestrator.cluster.handles import wait_all

    stuck = place()
    assert stuck.call("ready").wait() == 1
    slow = stuck.call("sleep", 3.0, timeout_s=0.3)
    with pytest.raises(
        WaitedTooLong, match=r"^the driver timed out after 0\.3 s waiting for reward actor 0 \(sleep\)$"
    ):
        slow.wait()
    behind = stuck.call("ready", timeout_s=0.2)  # served in order: waits for the sleeping call
    with pytest.raises(WaitedTooLong, match=r"reward actor 0 \(ready\)"):
        wait_all([behind])


def test_an_actor_that_starts_can_be_killed(place: Callable[..., Any]) -> None:
    """It serves no call yet, but it has a process, which may be stopped. It starts again like any other."""
    slow = place("slow")

    def process(other_than: Any) -> Any:
        end = time.monotonic() + 120
        while (found := slow.process()) in (None, other_than) and time.monotonic() < end:
            time.sleep(0.05)
        assert slow.place() is None
        return found

    first = process(None)
    os.kill(first[1], signal.SIGSTOP)
    slow.kill()
    assert process(first) not in (None, first)
    slow.end()


def test_a_private_ray_does_not_disturb_others(place: Callable[..., Any]) -> None:
    """It leaves the port where a head that is started later takes its jobs, and nobody joins it by mistake."""
    from orchestrator.cluster.local_rays import auto_address, local_rays, refuse_private
    from rollout.base.errors import BadInput

    place()
    (mine,) = [one for one in local_rays() if one.run == str(os.getpid())]
    assert mine.head and mine.agent_port is None
    with pytest.raises(BadInput, match=f"is the private one of another run .process {os.getpid()}."):
        refuse_private(mine.address)
    try:
        assert auto_address() != mine.address  # another Ray of this machine
    except BadInput as error:
        assert "auto: " in str(error) and mine.address not in str(error)


def test_gpus_in_a_cluster_without_any_are_refused(place: Callable[..., Any]) -> None:
    """What to do is not to ask for fewer of them."""
    from conf.schema import Device, LearnerConf, Placement, RolloutConf
    from orchestrator.cluster.actors import Actors
    from orchestrator.cluster.placement import plan
    from rollout.base.errors import BadInput

    place()
    both = plan(Placement.disaggregated, RolloutConf(device=Device.gpu), LearnerConf(device=Device.gpu))
    expected = (
        r"^rollout.device=gpu and learner.device=gpu: .* = 2 GPUs are needed, and the cluster has none .*smi.*=cpu"
    )
    with pytest.raises(BadInput, match=expected):
        Actors(1.0, {}).refuse_too_large(both)
    Actors(1.0, {}).refuse_too_large(plan(Placement.disaggregated, RolloutConf(num_cpus=0.1)))


def test_available_results_are_graded_before_earlier_requests(place: Callable[..., Any]) -> None:
    """Else a validation would wait for the batches that are still being sampled."""
    sampler, grader = place(), place()
    result = sampler.call("sleep", 4.0)
    early, late = grader.call("grade_request", result), grader.call("grade_request", 1.0)
    assert late.wait() == 1.0 and not result.done() and not early.done()
    assert grader.call("ready").wait() == 1 and not result.done()
    assert early.wait() == 4.0


def test_the_first_failure_is_raised_at_once(place: Callable[..., Any]) -> None:
    """Not only after the slow one before it in the list."""
    from orchestrator.base.errors import ActorDied
    from orchestrator.cluster.handles import wait_all

    slow, dying = place(), place()
    waiting = [slow.call("sleep", 30.0), dying.call("die")]
    with pytest.raises(ActorDied, match=r"^reward actor 0 \(die\): the actor died \("):
        wait_all(waiting)


@pytest.mark.bench
def test_a_warm_up_goes_on_when_a_learner_rank_dies(warm_up: Any, tmp_path: Path) -> None:
    """Twice: before it has saved anything, and from its last save. It ends in the same weights."""
    often = ["learner.max_restarts=2", "warmup.save_every_s=0.5", f"warmup.cache={tmp_path}/cache"]
    run = Watched(["warmup", *TASK, *often], tmp_path)
    run.until(lambda: run.titled("ray::LearnerWorker.fine_tune"), "its first step")
    os.kill(run.titled("ray::LearnerWorker")[0], signal.SIGKILL)
    run.until(lambda: [*tmp_path.glob("cache/.*.partial/checkpoints/step_*")], "a save")
    os.kill(run.titled("ray::LearnerWorker")[0], signal.SIGKILL)
    succeeded(run.wait())
    assert run.err.count("died: all ranks start again, with the warm-up's last saved steps") == 2
    assert "goes on from step" in run.out
    (model,) = (path.parent for path in tmp_path.glob("cache/*/warmup.json"))
    assert (model / "model.safetensors").read_bytes() == (warm_up.model / "model.safetensors").read_bytes()
    counted = [row["step"] for row in read_lines(model / "warmup.jsonl")]
    assert counted == [*range(10, 501, 10)]


def test_a_lost_connection_stays_one_when_several_are_waited_for(place: Callable[..., Any]) -> None:
    """Learner ranks start again for it, unlike for a sampler's death."""
    from orchestrator.base.errors import ActorUnreachable
    from orchestrator.cluster.handles import wait_all

    class Lost:
        def __init__(self, ref: Any):
            self.ref, self.timeout_s, self.what = ref, 60.0, "learner rank 1 (update)"

        def wait(self) -> Any:
            raise ActorUnreachable(
                "learner rank 1 (update): the actor cannot be reached (No route to host)", "11111111"
            )

    other = place().call("sleep", 600.0)
    with pytest.raises(ActorUnreachable, match=r"No route to host\); still running: reward actor 0 \(sleep\)$") as told:
        wait_all([Lost(place().call("ready").ref), other])
    assert told.value.args[1:] == ("11111111",)


def test_an_aborted_rank_is_named_with_its_call_its_likely_cause_and_who_runs_on(place: Callable[..., Any]) -> None:
    """As NCCL's watchdog ends a process: in the middle of a call, without a Python error."""
    from orchestrator.base.errors import ActorDied
    from orchestrator.cluster.handles import RayHandle, wait_all

    ranks = [RayHandle(place().actor, f"learner rank {rank}", 60.0, collective_s=1.0) for rank in range(3)]
    wait_all([rank.call("ready") for rank in ranks])
    calls = [ranks[0].call("abort", 1.2), ranks[1].call("sleep", 600.0), ranks[2].call("abort", 1.2)]
    cause = r"learner rank [02] \(abort\): the actor died \(.+\); it was asked \d+ s ago, so most likely it "
    cause += r"waited for another rank longer than learner\.timeout_s=1 s in a collective call, after which NCCL ends"
    others = r"died too: learner rank [02] \(abort\); still running: learner rank 1 \(sleep\)$"
    with pytest.raises(ActorDied, match=f"^{cause}.*; {others}"):
        wait_all(calls)
    early = RayHandle(place().actor, "learner rank 0", 60.0, collective_s=600.0).call("abort", 0.0)
    with pytest.raises(ActorDied, match=r"^learner rank 0 \(abort\): the actor died \([^;]+\)$"):
        wait_all([early])  # sooner than that it has another cause


def test_beside_a_dead_rank_one_that_failed_is_told_with_its_error(place: Callable[..., Any]) -> None:
    """It may be the cause of the death."""
    from orchestrator.cluster.handles import _others

    failed, served = place(), place()
    calls = [failed.call("fail", "disk"), served.call("ready")]
    with pytest.raises(OSError, match="No space left"):
        calls[0].wait()
    assert calls[1].wait() == 1
    told = "; failed: reward actor 0 (fail) (OSError: [Errno 28] No space left on device)"
    assert _others({call.ref: call for call in calls}) == told


def test_only_several_ranks_on_gpus_wait_for_each_other_and_the_driver_for_two_collective_calls() -> None:
    from conf.schema import Device, LearnerConf
    from orchestrator.cluster.cluster import GRACE_S, learner_limits

    gpu, cpu = (LearnerConf(device=device, timeout_s=100.0) for device in (Device.gpu, Device.cpu))
    assert learner_limits(gpu, 2) == (200.0 + GRACE_S, 100.0)
    assert learner_limits(gpu, 1) == learner_limits(cpu, 2) == (200.0 + GRACE_S, None)


def test_deterministic_mode_reaches_the_actors(place: Any, tiny_model: Path) -> None:
    """Before they use a device. (What it does: tests/learner/test_deterministic.py.)"""
    from conf.schema import Config, LearnerConf, RunConf
    from orchestrator.cluster.parts import make_learner

    found = []
    for deterministic in (True, False):
        conf = Config(run=RunConf(seed=5, deterministic=deterministic), learner=LearnerConf(num_cpus=0.1))
        learner = make_learner(place.cluster, conf, conf.learner, str(tiny_model), 1.0, 1)
        found.append(learner.ranks[0].call("__ray_call__", _determinism).wait())
        place.cluster.release(learner.ranks)
    assert found[0] == (True, 5, ":4096:8") and found[1][0] is False and found[1][2] is None


def _determinism(_: Any) -> tuple[bool, int, str | None]:
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled, torch.initial_seed(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def test_an_actors_error_is_raised_unchanged(place: Callable[..., Any]) -> None:
    from rollout.base.errors import BadInput

    actor = place()
    with pytest.raises(BadInput) as raised:
        actor.call("fail", "bad input").wait()
    assert str(raised.value) == "mend it" and "reward actor 0 (fail)" in raised.value.__notes__[0]
    with pytest.raises(OSError) as full:
        actor.call("fail", "disk").wait()
    assert full.value.errno == 28
    assert actor.call("ready").wait() == 1  # it lives


def test_an_actors_start_up_error_is_raised(place: Callable[..., Any]) -> None:
    from orchestrator.base.errors import RunError
    from rollout.base.errors import BadInput

    with pytest.raises(BadInput, match=r"^the folder is empty; fill it$"):
        place("bad input").call("ready").wait()
    with pytest.raises(RunError, match=r"^reward actor 0 \(ready\): cannot start \(ZeroDivisionError: by zero\)$"):
        place("broken").call("ready").wait()
