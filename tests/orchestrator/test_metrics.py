"""A step's record against numbers worked out by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import RewardConf, TrackerConf
from learner.metrics.report import StepReport
from orchestrator.base.observer import FinishedStep, Observer, Record
from orchestrator.tracking.catalogue import find
from orchestrator.tracking.metrics import describe, distributions, judged, summarize
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.tracker import Tracker
from orchestrator.training.observers import Observers
from orchestrator.training.unjudged import UnjudgedLog
from reward.group import Group, JudgedBatch
from reward.verdict import Outcome, Verdict
from rollout.base.spans import FOR_LEARNER, FOR_TRAJECTORIES, FOR_VERDICTS, FOR_WEIGHTS, Span
from rollout.mode import Mode, modes_of
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory
from tests.helpers.runs import read_lines


def prompt(level: str | None) -> Prompt:
    return Prompt(f"test/{level}", "?", np.array([1], np.int32), "1", "test", level)


def trajectory(where: Prompt, sibling: int, tokens: int, mode: Mode | None, finish: Finish, version: int) -> Trajectory:
    return Trajectory(
        prompt=where,
        sibling=sibling,
        token_ids=np.arange(tokens, dtype=np.int32),
        behavior_logprobs=np.zeros(tokens, np.float32),
        mode=mode,
        finish=finish,
        versions=np.full(tokens, version, np.int32),
    )


def group(
    level: str | None, rows: Sequence[tuple[int, Mode | None, Outcome, float]], version: int = 4, **more: Any
) -> Group:
    """rows: tokens, mode, outcome, reward."""
    where = prompt(level)
    return Group(
        prompt=where,
        trajectories=tuple(
            trajectory(where, i, n, mode, Finish.LENGTH if outcome is Outcome.CUT_OFF else Finish.STOP, version)
            for i, (n, mode, outcome, _) in enumerate(rows)
        ),
        verdicts=tuple(Verdict(outcome, None, 0.0) for *_, outcome, _ in rows),
        rewards=np.array([reward for *_, reward in rows], np.float32),
        **more,
    )


THINK, SHORT, RIGHT, WRONG = Mode.THINK, Mode.SHORT, Outcome.CORRECT, Outcome.WRONG
EASY = [(10, THINK, RIGHT, 0.5), (4, SHORT, RIGHT, 1.0), (4, SHORT, WRONG, -1.0), (6, SHORT, RIGHT, 1.0)]
GONE = tuple(Verdict(kind, None, 0.0) for kind in (Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.TIMED_OUT))
HARD = [(40, THINK, RIGHT, 0.5), (100, THINK, Outcome.CUT_OFF, -1.0), (2, None, Outcome.NO_MODE, -1.0)]


def test_figures_equal_those_worked_out_by_hand() -> None:
    record = describe(judged([group("2", EASY), group("9", HARD)]))
    assert record == pytest.approx(
        {
            "reward/mean": (0.5 + 1 - 1 + 1 + 0.5 - 1 - 1) / 7,
            "accuracy/all": 4 / 7,
            "accuracy/think": 2 / 3,
            "accuracy/short": 2 / 3,
            "think_rate/all": 3 / 7,
            "no_mode": 1 / 7,
            "think_in_short": 0,
            "truncated": 1 / 7,
            "tokens/mean": 166 / 7,
            "tokens/think": 150 / 3,
            "tokens/short": 14 / 3,
            "tokens/p50": 6,
            "tokens/p95": 40 + 0.7 * 60,  # sorted 2 4 4 6 10 40 100, place .95 * 6 = 5.7
            "tokens/max": 100,
            "think_rate/level/2": 1 / 4,
            "accuracy/level/2": 3 / 4,
            "think_rate/level/9": 2 / 3,
            "accuracy/level/9": 1 / 3,
        }
    )


def test_short_answers_with_think_tokens_are_counted() -> None:
    """Of the short ones alone, whatever became of them."""
    easy = group("2", EASY)
    thinks = [replace(verdict, think_token=nth in (0, 2)) for nth, verdict in enumerate(easy.verdicts)]
    record = describe(judged([replace(easy, verdicts=tuple(thinks)), group("9", HARD)]))
    assert record["think_in_short"] == pytest.approx(1 / 3)
    assert describe(judged([group("9", HARD)]))["think_in_short"] is None


def test_a_mode_that_was_never_chosen_has_no_figures() -> None:
    record = describe(judged([group(None, [(4, SHORT, RIGHT, 1.0), (6, SHORT, WRONG, -1.0)])]))
    assert record["accuracy/think"] is None and record["tokens/think"] is None
    assert record["accuracy/short"] == 0.5 and record["think_rate/all"] == 0
    assert not [key for key in record if "/level/" in key]


def test_an_empty_batch_has_no_figures() -> None:
    record = describe([])
    assert record["reward/mean"] is None and record["tokens/mean"] is None and record["tokens/max"] is None
    assert (
        summarize(batch := JudgedBatch([], [], []), None, [], (0.0, 1.0), distributions(batch))["groups/dropped_share"]
        is None
    )


SPANS = [  # of a step from 100 to 105.75
    Span(FOR_TRAJECTORIES, 100.0, 102.0),
    Span(FOR_VERDICTS, 102.0, 102.5),
    Span(FOR_LEARNER, 102.5, 105.5),
    Span(FOR_WEIGHTS, 105.5, 105.625),
    Span(FOR_WEIGHTS, 98.0, 99.0),  # before it
]


def summed(groups: list[Group], report: StepReport | None) -> Record:
    """500 tokens sampled in 4 s, judged in 0.5 s; no dynamic sampling."""
    batch = JudgedBatch([], groups, groups, staleness=2, sampling_s=4.0, grading_s=0.5, tokens=500)
    return summarize(batch, report, SPANS, (100.0, 105.75), distributions(batch))


def report(**values: Any) -> StepReport:
    return StepReport(updates=8, skipped=0, tokens=900, seconds=3.0, lr=1e-4, **values)


def test_a_steps_record_equals_the_one_worked_out_by_hand() -> None:
    alike = group("2", [(5, SHORT, RIGHT, 1.0)] * 4, version=2)
    groups = [group("2", EASY, version=4), alike, group("9", HARD, version=3)]
    found = summed(groups, report(loss=-0.25, loss_control=-0.2, loss_response=-0.06, loss_kl=0.01))
    assert found["groups/dropped_share"] == pytest.approx(1 / 3)
    assert found["staleness/max"] == 2 and found["versions/mixed"] == 0
    assert found["no_op"] == 0 and found["loss/total"] == -0.25 and found["loss/control"] == -0.2
    assert found["loss/response"] == -0.06 and found["loss/kl"] == 0.01 and found["lr"] == 1e-4
    assert found["learner/tokens_per_s"] == 300 and found["rollout/tokens_per_s"] == 125
    assert found["seconds/rollout"] == 2 and found["weight_sync/seconds"] == 0.125 and found["seconds/step"] == 5.75
    assert found["entropy"] is None  # not a number in the report: null, which JSON knows
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_the_clips_and_the_sampler_did() -> None:
    keys = {
        **{"ratio_outside": "ratio_outside", "clip_fraction": "clip_fraction"},
        **{name: name.replace("_", "/", 1) for name in ("clip_high", "clip_low", "clip_dual")},
        **{name: name.replace("_", "/", 1) for name in ("mismatch_kl", "mismatch_mean_abs", "mismatch_max_abs")},
        **{name: name.replace("_", "/", 1) for name in ("importance_mean", "importance_max", "importance_capped")},
    }
    given = {name: 1000.0 + i for i, name in enumerate(keys)}
    found = summed([group("2", EASY)], report(**given))
    assert {name: found[key] for name, key in keys.items()} == given


def test_a_step_without_an_update() -> None:
    found = summed([group("2", [(5, SHORT, RIGHT, 1.0)] * 4)], None)
    assert found["no_op"] == 1 and found["groups/dropped_share"] == 1
    assert not [key for key in found if key.startswith("loss/")] and "grad_norm" not in found


def test_verdicts_that_were_none_leave_and_are_counted() -> None:
    """A check that timed out is no wrong answer: its sibling is not in the group; the group counts it."""
    found = summed([group("2", EASY, failed=GONE[:2]), group("9", HARD, failed=GONE[2:])], None)
    kinds = {key: value for key, value in found.items() if key.startswith("unjudged/")}
    assert kinds == {"unjudged/raised": 0, "unjudged/timed_out": 2, "unjudged/crashed": 1}
    assert found["unjudged"] == 3 and found["accuracy/all"] == pytest.approx(4 / 7)
    assert found["reward/repeated_timeouts"] == 0  # of the two nobody knows the answer
    late = Verdict(Outcome.TIMED_OUT, "9^9^9^9", 5.0)
    assert summed([group("2", EASY, failed=[late, late, *GONE])], None)["reward/repeated_timeouts"] == 2


def test_shares_by_outcome_are_of_all_answers() -> None:
    hits = [Verdict(RIGHT, "1", 0.0, cached=True), Verdict(WRONG, "2", 0.0)]
    two = group("2", [(4, SHORT, RIGHT, 1.0), (4, SHORT, WRONG, -1.0)])
    groups = [group("2", EASY, failed=GONE[:2]), group("9", HARD, failed=GONE[2:]), replace(two, verdicts=tuple(hits))]
    found = summed(groups, None)  # 4 + 3 + 2 with a verdict, 3 without; judged in 0.5 s
    wanted = {
        "reward/mean": (0.5 + 1 - 1 + 1 + 0.5 - 1 - 1 + 1 - 1) / 9,
        "outcome/correct": 5 / 12,
        "outcome/wrong": 2 / 12,
        "outcome/cut_off": 1 / 12,
        "outcome/no_answer": 0,
        "outcome/no_mode": 1 / 12,
        "outcome/format_error": 0,
        "reward/cached": 1 / 9,
        "reward/answers_per_s": 24,
    }
    assert {key: value for key, value in found.items() if key in wanted or "outcome/" in key} == pytest.approx(wanted)
    assert {key: found[f"reward/answers/{key}"] for key in ("correct", "timed_out", "crashed", "raised")} == {
        **{"correct": 5, "timed_out": 2, "crashed": 1, "raised": 0}
    }
    assert found["reward/cache_hits"] == 1


def test_tokens_are_counted_by_mode_and_worker() -> None:
    groups = [group("2", EASY, version=2), group("9", HARD, version=4)]
    batch = JudgedBatch(
        [],
        groups,
        groups,
        sampling_s=4.0,
        workers=((0, 60, 2.0), (1, 100, 4.0), (0, 20, 2.0)),
        step=5,
        queued=3,
        ready=2,
    )
    found = summarize(batch, report(entropy_control=0.25), SPANS, (100.0, 105.75), distributions(batch))
    tokens = {mode: found[f"rollout/response_tokens/{mode}"] for mode in ("think", "short", "none")}
    assert tokens == {"think": 150, "short": 14, "none": 2} and found["rollout/prompt_tokens"] == 7
    assert {mode: found[f"answers/{mode}"] for mode in tokens} == {"think": 3, "short": 3, "none": 1}
    assert found["rollout/tokens_per_s/think"] == 37.5 and found["entropy/control"] == 0.25
    assert (found["rollout/tokens_per_s/worker/0"], found["rollout/tokens_per_s/worker/1"]) == (20, 25)
    assert (found["queue/depth"], found["queue/ready"]) == (3, 2) and found["learner/tokens"] == 900
    assert found["staleness/mean"] == pytest.approx((4 * 3 + 3 * 1) / 7)
    values = distributions(batch)
    assert sorted(values["answer_tokens/think"]) == [10, 40, 100] and len(values["reward/seconds"]) == 7
    assert not [key for key in (*found, *values) if find(key) is None]


def test_a_clock_that_was_set_back_makes_no_negative_step(tmp_path: Path) -> None:
    seen: list[FinishedStep] = []

    class Sees(Observer):
        def step(self, done: FinishedStep) -> None:
            seen.append(done)

    later = JudgedBatch([], [], [], begin=time.time() + 3600)
    Observers(Timeline(tmp_path / "timeline.json", {}), [Sees()]).step(1, later, None)
    assert [done.figures["seconds/step"] for done in seen] == [0.0]


@pytest.mark.parametrize(("samples", "wanted"), [(0, []), (1, ["2 short"]), (2, ["3 think", "3 short"]),
                                                 (3, ["3 think", "3 short", "2 short"])])  # fmt: skip
def test_one_question_is_shown_in_either_mode(tmp_path: Path, samples: int, wanted: list[str]) -> None:
    """Where one was sampled in both; the number of answers stays."""
    short, think = (5, Mode.SHORT, Outcome.CORRECT, 1.0), (9, Mode.THINK, Outcome.WRONG, -1.0)
    wrong = (5, Mode.SHORT, Outcome.WRONG, -1.0)
    groups = [group("1", [short, short]), group("2", [short, wrong]), group("3", [short, think, think])]
    tracker = Tracker(tmp_path, TrackerConf(console=False, gauges=False), 10, 0, lambda ids: "text", samples)
    tracker.show(4, groups)
    tracker.close()
    lines = read_lines(tmp_path / "samples.jsonl")
    assert [f"{line['level']} {line['mode']}" for line in lines] == wanted


@pytest.mark.parametrize(("step", "validated"), [(4, 4), (4, 0), (0, -1)])
def test_a_validation_that_is_made_again_is_written_once(tmp_path: Path, step: int, validated: int) -> None:
    """As when the checkpoint was saved before it, and the run killed behind it."""
    short = (5, Mode.SHORT, Outcome.CORRECT, 1.0)

    def session(begin: int, done: int, steps: Sequence[int]) -> None:
        """Steps, and a validation at 0 and 4, from where a checkpoint stands."""
        conf = TrackerConf(console=False, gauges=False)
        tracker = Tracker(tmp_path, conf, 10, begin, lambda ids: "text", 1, validated=done)
        log = UnjudgedLog(RewardConf(), lambda text: None, tracker.files, begin, done)
        for at in (begin, *steps):
            if at > begin:
                tracker.log(at, {"seconds/step": 1.0})
            if at in (0, 4) and at > done:
                tracker.log(at, {"validation/reward": 0.5})
                log.tell(f"validation at step {at}", at, [Verdict(Outcome.CRASHED, None, 0.0)], 1)
                tracker.before(judged([group("1", [short, short])]))
        tracker.close()

    session(0, -1, range(1, 5))
    session(step, validated, range(step + 1, 6))
    lines = read_lines(tmp_path / "metrics.jsonl")
    due = [(0, True), (1, False), (2, False), (3, False), (4, False), (4, True), (5, False)]
    assert [(line["step"], "validation/reward" in line) for line in lines] == due
    assert [line["step"] for line in read_lines(tmp_path / "samples.jsonl")] == [0]
    assert (tmp_path / "samples.txt").read_text().count("--- step 0, ") == 1
    assert [line["step"] for line in read_lines(tmp_path / "unjudged.jsonl")] == [0, 4]


def test_every_mode_has_figures_of_its_own() -> None:
    """With two they are those of before; with more also the share of each, which add up to 1 with those without."""
    modes = modes_of(["short", "medium", "think"])
    rows = [*EASY, (20, modes[1], RIGHT, 0.75), (30, modes[1], WRONG, -1.0), *HARD]
    record = describe(judged([group("2", rows)]), modes)
    assert (record["accuracy/medium"], record["tokens/medium"], record["mode_rate/medium"]) == (0.5, 25, 2 / 9)
    assert record["think_rate/all"] == 5 / 9  # whatever reasons
    shares = [record["no_mode"], *(record[f"mode_rate/{mode.name}"] for mode in modes)]
    assert sum(share or 0 for share in shares) == pytest.approx(1)
    assert not [key for key in describe(judged([group("2", EASY)])) if key.startswith("mode_rate/")]
    batch = JudgedBatch([], [group("2", rows)], [])
    found = summarize(batch, None, [], (0.0, 1.0), distributions(batch, modes), modes)
    assert [found[f"answers/{name}"] for name in ("think", "medium", "short", "none")] == [3, 2, 3, 1]
    assert found["rollout/response_tokens/medium"] == 50
