"""What goes wrong while it runs: interruptions, killed actors, stuck ones. Each ends soon, says one clear line and
leaves nothing behind.

The run that is interrupted is resumed, and the resumed one loses an actor: so its start shows that the checkpoint
before it was good.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import Watched, told_in_one_line

SOON = 60.0  # seconds from a fault to the end of the command, on a machine that may be busy with other things
FOREVER = "run.steps=100000"


def steps(folder: Path) -> list[int]:
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [row["step"] for row in map(json.loads, lines) if "seconds/step" in row]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


# ---- interrupted ----


def test_interrupted_in_the_warm_up(task: list[str], tmp_path: Path) -> None:
    """kill: nothing was learnt yet, so nothing stays: no run, no half-written warm-up."""
    run = Watched(["train", *task, "warmup.steps=100000", "warmup.cache=cache"], tmp_path)
    run.until(lambda: "warm-up: " in run.err, "the warm-up began")
    run.interrupt(signal.SIGTERM)
    run.wait(SOON)
    assert run.returncode == 130 and told_in_one_line(run) == "thinkless: interrupted"
    assert not list((tmp_path / "runs").iterdir()) and not list((tmp_path / "cache").iterdir())


@pytest.fixture(scope="module")
def interrupted(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Path]]:
    """Ctrl-C in training, after the second checkpoint; some seconds later a second one, as people do."""
    where = tmp_path_factory.mktemp("interrupted")
    run = Watched(
        ["train", *tiny, FOREVER, *["run.name=mine", "run.save_every=3", "run.keep_checkpoints=2", "learner.ranks=2"]],
        where,
    )
    folder = where / "runs" / "mine"
    run.until(lambda: "step_000006" in checkpoints(folder), "the second checkpoint")
    run.interrupt(signal.SIGINT)
    run.wait(SOON)
    yield run, folder


def test_interrupted_in_training(interrupted: tuple[Watched, Path]) -> None:
    run, folder = interrupted
    line = told_in_one_line(run)
    assert run.returncode == 130 and line.startswith("thinkless: interrupted")
    last = checkpoints(folder)[-1]
    assert f"the last checkpoint is of step {int(last.removeprefix('step_'))}" in line
    assert f"thinkless train resume={folder}" in line
    assert 1 <= len(checkpoints(folder)) <= 2 and (folder / "checkpoints" / last / "state.json").is_file()
    assert not list(folder.glob(".*")) and not (folder / "model").exists()


# ---- an actor is killed ----


def killed(folder: Path) -> tuple[Watched, int]:
    """Resume the run, kill -9 its second learner rank in the middle; the command and the step that it went on from."""
    before = checkpoints(folder)[-1]
    begin = int(before.removeprefix("step_"))
    run = Watched(["train", f"resume={folder}"], folder.parent)
    run.until(lambda: f"going on from step {begin}" in run.out, "it goes on")
    run.until(lambda: max(steps(folder), default=0) >= begin + 4, "some steps")
    os.kill(run.titled("ray::LearnerWorker")[1], signal.SIGKILL)
    return run.wait(SOON), begin


def test_a_killed_actor_is_named(interrupted: tuple[Watched, Path]) -> None:
    """Not what the others said when the connection to it was lost."""
    _, folder = interrupted
    run, begin = killed(folder)
    line = told_in_one_line(run)
    assert run.returncode == 1 and "thinkless: learner rank " in line and "died" in line, line
    assert f"thinkless train resume={folder}" in line and len(line) < 600
    assert steps(folder) == [*range(1, len(steps(folder)) + 1)] and len(steps(folder)) >= begin + 4
    assert int(checkpoints(folder)[-1].removeprefix("step_")) >= begin + 3


# ---- a reward function that fails ----

FAULTY = """
def score(problem, response, answer, mode):
    return answer.missing
"""


def test_a_reward_function_that_fails_is_told_and_ends_the_run(tiny: list[str], tmp_path: Path) -> None:
    """First in the evaluation of what training starts from, which then shows no accuracy; training ends soon."""
    (tmp_path / "my_scores.py").write_text(FAULTY)
    few = ["evaluate.final=true", "evaluate.questions=2", "evaluate.every=1", "validation.size=4", "run.save_every=1"]
    run = Watched(["train", *tiny, FOREVER, *few, "run.name=mine", "reward.function=my_scores:score"], tmp_path).wait()
    line, folder = told_in_one_line(run), tmp_path / "runs" / "mine"
    cause = f"reward.function=my_scores:score: AttributeError: 'str' object has no attribute 'missing' ({tmp_path}"
    assert run.returncode == 1 and f"{cause}/my_scores.py:3)" in line
    assert line.startswith(
        "thinkless: step 3: no verdict on any of 16 answers (16 raised), more than reward.max_unjudged"
    )
    assert "for 3 steps in a row" in line and "the last checkpoint is of step 2" in line
    for when in ("evaluation of the warmup model, free", "validation at step 0", "step 1", "step 3"):
        assert run.err.count(f"\n{when}: no verdict on any of ") == 1, run.err[-3000:]
    assert run.err.count(f"  {cause}") == 1
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "seconds/step" in row]
    assert [(row["unjudged"], row["unjudged/raised"], row["accuracy/all"]) for row in trained] == [(16, 16, None)] * 3
    assert [row["validation/unjudged"] for row in rows if "validation/unjudged" in row] == [4] * 3
    levels = json.loads((folder / "evaluation.json").read_text())["models"]["warmup"]["free"]
    assert {(one["n"], one["unjudged"], one["accuracy"]) for one in levels.values()} == {(0, 2, None)}
    assert "my_scores.py:3), on problem arithmetic/" in (folder / "report.html").read_text()
    first, *_ = map(json.loads, (folder / "unjudged.jsonl").read_text().splitlines())
    assert first["during"].startswith("evaluation") and "answer.missing" in first["traceback"]


# ---- waiting, for real actors ----


class Body:
    """An actor's body that misbehaves as asked."""

    def __init__(self, fault: str = ""):
        from orchestrator.errors import RunError
        from rollout.errors import BadInput

        if fault == "bad input":
            raise BadInput("the folder is empty; fill it")
        if fault == "broken":
            raise ZeroDivisionError("by zero")
        self.told = RunError

    def ready(self) -> int:
        return 1

    def close(self) -> None: ...

    def sleep(self, seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    def judge_share(self, value: float) -> float:
        return value

    def fail(self, kind: str) -> None:
        from rollout.errors import BadInput

        raise {"bad input": BadInput("mend it"), "disk": OSError(28, "No space left on device")}[kind]

    def die(self) -> None:
        os._exit(1)


@pytest.fixture(scope="module")
def place() -> Iterator[Callable[..., Any]]:
    """`place(body, *arguments)`: a `Handle` of a real actor in a private Ray."""
    from conf.schema import ClusterConf, RewardConf
    from orchestrator.cluster import Cluster

    with Cluster(ClusterConf(object_store_gib=0.1)) as cluster:

        def make(*arguments: Any) -> Any:
            return cluster.reward_actors(RewardConf(num_cpus=0.01), _shipped(), list(arguments))[0]

        yield make


def _shipped() -> type:
    """`Body` by value: this test file is no module that a worker could import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(__import__("sys").modules[Body.__module__])
    return Body


def test_a_stuck_actor_is_named_with_what_it_was_asked_for(place: Callable[..., Any]) -> None:
    from orchestrator.errors import WaitedTooLong
    from orchestrator.handles import wait_all

    stuck = place()
    assert stuck.call("ready").wait() == 1
    slow = stuck.call("sleep", 3.0, timeout_s=0.3)
    with pytest.raises(WaitedTooLong, match=r"^the driver waited 0\.3 s for reward actor 0 \(sleep\), in vain$"):
        slow.wait()
    behind = stuck.call("ready", timeout_s=0.2)  # served in order: waits for the sleeping call
    with pytest.raises(WaitedTooLong, match=r"reward actor 0 \(ready\)"):
        wait_all([behind])


def test_what_is_there_is_graded_before_what_was_asked_for_earlier(place: Callable[..., Any]) -> None:
    """Else a validation would wait for the batches that are still being sampled."""
    sampler, judge = place(), place()
    share = sampler.call("sleep", 4.0)
    early, late = judge.call("judge_share", share), judge.call("judge_share", 1.0)
    assert late.wait() == 1.0 and not share.done() and not early.done()
    assert judge.call("ready").wait() == 1 and not share.done()
    assert early.wait() == 4.0


def test_the_first_failure_is_heard_at_once(place: Callable[..., Any]) -> None:
    """Not only after the slow one before it in the list."""
    from orchestrator.errors import ActorDied
    from orchestrator.handles import wait_all

    slow, dying = place(), place()
    waiting = [slow.call("sleep", 30.0), dying.call("die")]
    with pytest.raises(ActorDied, match=r"^reward actor 0 \(die\): the actor died \("):
        wait_all(waiting)


def test_an_actor_s_own_error_arrives_as_it_was(place: Callable[..., Any]) -> None:
    from rollout.errors import BadInput

    actor = place()
    with pytest.raises(BadInput) as raised:
        actor.call("fail", "bad input").wait()
    assert str(raised.value) == "mend it" and "reward actor 0 (fail)" in raised.value.__notes__[0]
    with pytest.raises(OSError) as full:
        actor.call("fail", "disk").wait()
    assert full.value.errno == 28
    assert actor.call("ready").wait() == 1  # it lives


def test_an_actor_that_cannot_start_says_why(place: Callable[..., Any]) -> None:
    from orchestrator.errors import RunError
    from rollout.errors import BadInput

    with pytest.raises(BadInput, match=r"^the folder is empty; fill it$"):
        place("bad input").call("ready").wait()
    with pytest.raises(RunError, match=r"^reward actor 0 \(ready\): cannot start \(ZeroDivisionError: by zero\)$"):
        place("broken").call("ready").wait()


# ---- a sampler that may start again ----


def test_a_killed_sampler_starts_again_and_changes_nothing(on_policy: Any, tmp_path: Path) -> None:
    """It takes the current weights itself and samples what it was asked for once more: the same, seed for seed."""
    run = Watched(["train", *on_policy.arguments, "run.name=killed", "rollout.max_restarts=2"], tmp_path)
    folder = tmp_path / "runs" / "killed"
    run.until(lambda: max(steps(folder), default=0) >= 2, "some steps")
    before = run.titled("ray::RolloutWorker")
    os.kill(before[0], signal.SIGKILL)
    run.until(lambda: set(run.titled("ray::RolloutWorker")) - {*before}, "a new one")
    assert len(before) == 2 and run.wait().returncode == 0, run.err[-3000:]
    assert steps(folder) == [*range(1, on_policy.steps + 1)]
    killed, left_alone = (
        [json.loads(line).get("loss/total") for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, on_policy.run)
    )
    assert killed == left_alone and any(killed)
