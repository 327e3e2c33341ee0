"""Answers without a verdict: what is reported and recorded, and when a run ends; with real grading processes."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

from conf.schema import RewardConf
from orchestrator.base.errors import RunError
from orchestrator.base.observer import FinishedStep
from orchestrator.tracking.line_files import LineFiles
from orchestrator.tracking.metrics import outcomes
from orchestrator.training.unjudged import STEPS, UnjudgedLimit, UnjudgedLog
from reward.group import Group, JudgedBatch, group_trajectories
from reward.verdict import Failure, Outcome, Verdict
from reward.worker import RewardWorker
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory
from tests.helpers.runs import read_lines

OWN = """
    import os

    def score(problem, response, answer, mode):
        if response == "raise":
            return 1 / 0
        if response == "missing":
            return {}[answer]
        if response == "exit":
            os._exit(1)
        while response == "hang":
            pass
        return float(response)
"""


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"scores_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def groups_of(worker: RewardWorker, conf: RewardConf, texts: list[str]) -> list[Group]:
    """Four siblings to a prompt."""
    ids = np.zeros(2, np.int32)
    prompts = [Prompt(f"mine/{n // 4}", "?", ids, "5", "test") for n in range(len(texts))]
    trajectories = [
        Trajectory(one, n % 4, ids, ids.astype(np.float32), Mode.SHORT, Finish.STOP, ids)
        for n, one in enumerate(prompts)
    ]
    verdicts = worker.grade_batch([(text, Mode.SHORT, Finish.STOP, p) for text, p in zip(texts, prompts, strict=True)])
    return group_trajectories(trajectories, verdicts, conf)


def failing(count: int, of: int, outcome: Outcome = Outcome.RAISED, error: str = "KeyError: 'x'") -> list[Group]:
    failed = (Verdict(outcome, None, 0.0, failure=Failure(error, about="answer '1', gold '2'")),) * count
    fine = (Verdict(Outcome.WRONG, "1", 0.0),) * (of - count)
    return [Group(Prompt("p", "?", np.zeros(1, np.int32), "2", "test"), (), fine, np.zeros(of - count), failed)]


def finished(step: int, groups: list[Group]) -> FinishedStep:
    return FinishedStep(step, JudgedBatch([], groups, groups), None, {})


def test_each_cause_is_reported_once_and_every_step_is_counted(function: str, tmp_path: Path) -> None:
    reported: list[str] = []
    conf = RewardConf(function=f"{function}:score", timeout_s=1.0, max_unjudged=1.0)
    file, own = tmp_path / "unjudged.jsonl", f"{tmp_path / function}.py"
    log = UnjudgedLog(conf, reported.append, files := LineFiles(tmp_path))
    steps = [["1", "raise", "-1", "raise"], ["2"] * 4, ["raise", "missing", "hang", "exit"], ["raise"] * 8]
    records = []
    with RewardWorker(conf) as worker:
        for step, texts in enumerate(steps, 1):
            groups = groups_of(worker, conf, texts)
            records.append(outcomes(groups, None))
            log.step(finished(step, groups))
    kinds = ("unjudged", "unjudged/raised", "unjudged/timed_out", "unjudged/crashed")
    assert [[record[kind] for kind in kinds] for record in records] == [
        [2, 2, 0, 0],
        [0] * 4,
        [4, 2, 1, 1],
        [8, 8, 0, 0],
    ]
    source = f"  reward.function={function}:score: "
    assert reported == [
        "step 1: no verdict on 2 of 4 answers (2 raised)",
        f"{source}ZeroDivisionError: division by zero ({own}:6), on problem mine/0",
        "step 3: no verdict on any of 4 answers (2 raised, 1 timed out, 1 crashed)",
        f"{source}KeyError: '5' ({own}:8), on problem mine/0",
        f"{source}no end after 1 s, on problem mine/0",
        f"{source}process ended: 1, twice, on problem mine/0",
        "step 4: no verdict on any of 8 answers (8 raised)",
    ]
    lines = read_lines(file)
    assert [line["step"] for line in lines] == [1, 1, 3, 3, 3, 3, 4, 4]  # five of a cause at most
    assert [line["outcome"] for line in lines[2:6]] == ["raised", "raised", "timed_out", "crashed"]
    assert lines[0]["error"] == "ZeroDivisionError: division by zero" and lines[0]["where"] == f"{own}:6"
    assert "return 1 / 0" in lines[0]["traceback"] and lines[1]["traceback"] is None
    again = UnjudgedLog(conf, reported.append, files, step=3)  # a resumed run does step 4 again
    again.step(finished(4, []))
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 1, 3, 3, 3, 3]


def test_too_many_unjudged_answers_in_consecutive_steps_end_the_run(function: str, tmp_path: Path) -> None:
    conf = RewardConf(function=f"{function}:score", max_unjudged=0.5)
    limit = UnjudgedLimit(conf, path=tmp_path / "unjudged.jsonl")
    bad, fine = ["raise", "raise", "missing", "1"], ["raise", "raise", "0", "1"]
    with RewardWorker(conf) as worker:
        for step, texts in enumerate([bad, bad, fine, bad, bad], 1):  # half is not above half
            limit.check(step, groups_of(worker, conf, texts))
        with pytest.raises(RunError) as ended:
            limit.check(6, groups_of(worker, conf, bad))
    assert str(ended.value) == (
        "step 6: no verdict on 3 of 4 answers (3 raised), more than reward.max_unjudged=0.5 for 3 steps in a row: "
        f"reward.function={function}:score: ZeroDivisionError: division by zero ({tmp_path / function}.py:6), "
        f"on problem mine/0; fix the function (more in {tmp_path / 'unjudged.jsonl'})"
    )


def test_a_run_with_fewer_steps_than_the_limit_ends_as_well() -> None:
    for steps in range(1, STEPS + 1):
        limit = UnjudgedLimit(RewardConf(), steps)
        for step in range(1, steps):
            limit.check(step, failing(4, of=4))
        with pytest.raises(RunError, match="KeyError: 'x', on answer '1', gold '2'; please report"):
            limit.check(steps, failing(4, of=4))


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_share_at_the_limit_is_allowed_and_one_above_ends_the_run(share: float) -> None:
    limit = UnjudgedLimit(RewardConf(max_unjudged=share))
    for step in range(1, 3 * STEPS):
        limit.check(step, failing(round(20 * share), of=20))
        limit.check(step, [])
    if share < 1:
        limit = UnjudgedLimit(RewardConf(max_unjudged=share))
        with pytest.raises(RunError):
            for step in range(1, STEPS + 1):
                limit.check(step, failing(round(20 * share) + 1, of=20))


@pytest.mark.parametrize(
    ("outcome", "error", "function", "advice"),
    [
        (Outcome.TIMED_OUT, "no end after 5 s", None, "raise reward.timeout_s=5, or reward.max_unjudged"),
        (Outcome.CRASHED, "process ended: -9, twice", None, "raise reward.memory_mib=2048, or reward.max_unjudged"),
        (Outcome.RAISED, "MemoryError: ", None, "raise reward.memory_mib=2048, or reward.max_unjudged"),
        (Outcome.TIMED_OUT, "no end after 5 s", "a:b", "fix the function, or raise reward.timeout_s=5"),
        (Outcome.CRASHED, "process ended: 0, twice", "a:b", "fix the function, or raise reward.memory_mib=2048"),
    ],
)
def test_the_advice_depends_on_the_outcome(outcome: Outcome, error: str, function: str | None, advice: str) -> None:
    limit = UnjudgedLimit(RewardConf(function=function), 1)
    with pytest.raises(RunError) as ended:
        limit.check(1, [*failing(3, of=4, outcome=outcome, error=error), *failing(1, of=4)])
    who = "reward.function=a:b" if function else "the grader"
    assert str(ended.value).endswith(f"{who}: {error}, on answer '1', gold '2'; {advice}")
