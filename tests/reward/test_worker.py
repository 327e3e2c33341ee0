"""The reward worker: order, hung and killed checks, its statistics, the user's reward function."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import reward.worker
from conf.schema import ModelConf, RewardConf
from reward.pool import Reply
from reward.sandbox import Call
from reward.statistics import Tally
from reward.verdict import Outcome, Verdict
from reward.worker import Pending, RewardWorker
from rollout.base.errors import BadInput
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.request import FINISHES, RolloutResult
from rollout.trajectory import Finish, Trajectory


def prompt(answer: str | tuple[str, ...] = "5", uid: str = "p") -> Prompt:
    return Prompt(uid, "2+3", np.zeros(2, np.int32), answer, "test")


def short(answer: str, gold: str | tuple[str, ...]) -> tuple[str, Mode | None, Finish, Prompt]:
    return rf"\boxed{{{answer}}}", Mode.SHORT, Finish.STOP, prompt(gold)


def test_plain_answers_never_start_a_process() -> None:
    with RewardWorker(RewardConf()) as worker:
        batch = [short(str(i % 10), "5") for i in range(128)]
        start = time.thread_time()  # whatever else the machine does
        verdicts = worker.grade_batch(batch)
        assert time.thread_time() - start < 0.1
        assert [verdict.correct for verdict in verdicts] == [i % 10 == 5 for i in range(128)]
        assert not worker.pool.sandboxes
        assert worker.tally.counts[Outcome.CORRECT] == 13


def test_every_outcome_is_returned_in_order() -> None:
    with RewardWorker(RewardConf(processes=2)) as worker:
        batch = [
            short("x+1", "1+x"),
            ("nothing", Mode.SHORT, Finish.STOP, prompt()),
            short("5", "5"),
            (r"\boxed{5}", None, Finish.STOP, prompt()),
            short(r"\frac{x}{2}", "2x"),
            (r"\boxed{5}", Mode.THINK, Finish.STOP, prompt()),
            short("x+1", "1+x"),
            (r"a</think>\boxed{5}", Mode.THINK, Finish.STOP, prompt(("4", "5"))),
            (r"\boxed{5}", Mode.SHORT, Finish.LENGTH, prompt()),
        ]
        expected = ["CORRECT", "NO_ANSWER", "CORRECT", "NO_MODE", "WRONG", "CUT_OFF", "CORRECT", "CORRECT", "CUT_OFF"]
        for _ in range(2):  # the second time from the cache
            verdicts = worker.grade_batch(batch)
            assert [verdict.outcome.name for verdict in verdicts] == expected
        assert verdicts[0].extracted == "x+1"
        assert verdicts[4].extracted == r"\frac{x}{2}"
        assert all(verdict.reward is None for verdict in verdicts)


def test_a_hung_check_times_out_once_for_all_siblings(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging: list[str] = []

    def hang(call: tuple[str, tuple[str, ...]]) -> tuple[str, tuple[object, ...]]:
        if "HANG" not in call[1][0]:
            return f"{own}:echo", (True,)
        hanging.append(call[1][0])
        return f"{own}:power", (9,)

    with RewardWorker(RewardConf(timeout_s=2.0)) as worker:  # far above what an echo takes
        submit = worker.pool.submit
        monkeypatch.setattr(worker.pool, "submit", lambda call: submit(hang(call)))
        batch = [short("a b", "x"), short("HANG", "x"), short("c d", "x"), short("HANG", "x")]
        for _ in range(2):
            outcomes = [verdict.outcome for verdict in worker.grade_batch(batch)]
            assert outcomes == [Outcome.CORRECT, Outcome.TIMED_OUT, Outcome.CORRECT, Outcome.TIMED_OUT]
        assert hanging == ["HANG"]
        assert worker.tally.counts[Outcome.TIMED_OUT] == 4


def test_a_limit_that_was_shortened_is_not_held_against_the_answer(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardWorker(RewardConf(timeout_s=0.6, hung_s=0.5)) as worker:
        submit = worker.pool.submit
        monkeypatch.setattr(worker.pool, "submit", lambda call: submit((f"{own}:power", (9,))))
        whole, *others = worker.grade_batch([short(f"a {at}", "x") for at in range(9)])
        assert {verdict.outcome for verdict in (whole, *others)} == {Outcome.TIMED_OUT}
        assert whole.failure and whole.failure.error == "no end after 0.6 s"
        said = [verdict.failure.error for verdict in others if verdict.failure]
        assert len(said) == 8 and all("had taken reward.hung_s=0.5 of this batch" in error for error in said)
        assert said[-1].startswith("not begun: ")
        monkeypatch.setattr(worker.pool, "submit", lambda call: submit((f"{own}:echo", (True,))))
        again = worker.grade_batch([short("a 0", "x"), short("a 8", "x")])
        assert [verdict.outcome for verdict in again] == [Outcome.TIMED_OUT, Outcome.CORRECT]  # from the cache, anew


def test_a_check_whose_process_is_killed_is_crashed(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardWorker(RewardConf()) as worker:
        submit = worker.pool.submit
        monkeypatch.setattr(worker.pool, "submit", lambda call: submit((f"{own}:die", ())))
        assert worker.grade_batch([short("a b", "x")])[0].outcome is Outcome.CRASHED
        monkeypatch.setattr(worker.pool, "submit", submit)
        assert worker.grade_batch([short("a b", "b a")])[0].outcome is Outcome.CORRECT


def test_power_towers_end_within_the_limit() -> None:
    with RewardWorker(RewardConf(timeout_s=2.0)) as worker:
        verdicts = worker.grade_batch(
            [short("9^{9^{9^9}}", "3"), short(r"\sum_{n=1}^{9999} n^{n}", "3"), short("2^2-1", "3")]
        )
        assert verdicts[2].correct
        assert not any(verdict.correct for verdict in verdicts[:2])


def test_trajectories_are_decoded_and_graded(tmp_path: Path) -> None:
    from rollout.data.tokens import build_character_tokenizer, control_tokens, encode_response, load_tokenizer

    build_character_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, ModelConf())
    control = control_tokens(tokenizer, ModelConf())

    def trajectory(mode: Mode | None, text: str, finish: Finish = Finish.STOP) -> Trajectory:
        first = [control.id_of(mode)] if mode else []
        ids = [*first, *encode_response(tokenizer, text), *([control.eos] if finish is Finish.STOP else [])]
        zeros = np.zeros(len(ids), np.float32)
        return Trajectory(prompt(), 0, np.array(ids, np.int32), zeros, mode, finish, zeros.astype(np.int32))

    given = [
        trajectory(Mode.SHORT, r"\boxed{5}"),
        trajectory(Mode.THINK, r"2+3=5</think>\boxed{5}"),
        trajectory(Mode.THINK, r"2+3=5\boxed{5}"),
        trajectory(None, r"\boxed{5}"),
        trajectory(Mode.SHORT, r"\boxed{5}", Finish.LENGTH),
        trajectory(Mode.SHORT, "\\boxed{\\text{é}}"),
    ]
    with RewardWorker(RewardConf(), str(tmp_path), control) as worker:
        assert worker.texts(given)[:2] == [r"\boxed{5}", r"2+3=5</think>\boxed{5}"]
        names = [verdict.outcome.name for verdict in worker.grade(given)]
        result = sampled([*given[:2], None, *given[2:]])
        graded = [worker.grade_request(result, [prompt()] * count, first) for first, count in ((0, 4), (4, 3))]
    assert names == ["CORRECT", "CORRECT", "CUT_OFF", "NO_MODE", "CUT_OFF", "WRONG"]
    found = [None if one is None else one.outcome.name for part in graded for one in part.verdicts]
    assert found == [*names[:2], None, *names[2:]] and all(part.seconds > 0 for part in graded)


def test_thinking_after_a_short_token_is_never_rewarded(tmp_path: Path) -> None:
    """By ids, spelt out in other tokens, and where the user's function decides: there it is only counted."""
    from rollout.data.tokens import build_character_tokenizer, control_tokens, encode_response, load_tokenizer

    build_character_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, ModelConf())
    control = control_tokens(tokenizer, ModelConf())
    spelt = [8 + byte for byte in b"</think>"]

    def trajectory(mode: Mode, *parts: str | list[int]) -> Trajectory:
        pieces = [encode_response(tokenizer, part).tolist() if isinstance(part, str) else part for part in parts]
        ids = np.array([control.id_of(mode), *(i for piece in pieces for i in piece), control.eos], np.int32)
        zeros = np.zeros(len(ids), np.float32)
        return Trajectory(prompt(), 0, ids, zeros, mode, Finish.STOP, zeros.astype(np.int32))

    given = [
        trajectory(Mode.SHORT, "2+3=5</think>\\boxed{5}"),
        trajectory(Mode.SHORT, "<think>2+3=5</think>\\boxed{5}"),
        trajectory(Mode.SHORT, "2+3=5", spelt, "\\boxed{5}"),
        trajectory(Mode.SHORT, "\\boxed{5}"),
        trajectory(Mode.THINK, "2+3=5", spelt, "\\boxed{5}"),
        trajectory(Mode.THINK, "2+3=5</think>", spelt, "\\boxed{5}"),
        trajectory(Mode.THINK, "</think>\\boxed{5}"),
    ]
    there = [True, True, True, False, False, True, False]
    with RewardWorker(RewardConf(), str(tmp_path), control) as worker:
        verdicts = worker.grade(given)
    names = ["FORMAT_ERROR" if one else "CORRECT" for one in there]
    assert [verdict.outcome.name for verdict in verdicts] == names
    assert [verdict.think_token for verdict in verdicts] == there
    with RewardWorker(RewardConf(function="math:gcd"), str(tmp_path), control) as worker:
        by_function = worker.grade(given)
    assert [verdict.think_token for verdict in by_function] == there
    assert {verdict.outcome for verdict in by_function} == {Outcome.RAISED}


def sampled(trajectories: list[Trajectory | None]) -> RolloutResult:
    """As a rollout worker gives them; None: given up."""
    there = [one for one in trajectories if one is not None]
    return RolloutResult(
        lengths=np.array([0 if one is None else len(one.token_ids) for one in trajectories], np.int32),
        token_ids=np.concatenate([one.token_ids for one in there]),
        behavior_logprobs=np.concatenate([one.behavior_logprobs for one in there]),
        versions=np.concatenate([one.versions for one in there]),
        modes=tuple(None if one is None else one.mode for one in trajectories),
        finishes=np.array([2 if one is None else FINISHES.index(one.finish) for one in trajectories], np.uint8),
        forced=False,
        tokens=sum(len(one.token_ids) for one in there),
        begin=0.0,
        end=1.0,
    )


# ------------------------------------------------------------------ the user's reward function


def test_the_users_reward_function_gives_the_reward(own: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["four", "raise", "nan", "text", "none", "hang", "die", "eightish"]
    batch = [(text, Mode.THINK, Finish.STOP, prompt(uid=text)) for text in texts]
    with RewardWorker(RewardConf(function=f"{own}:own", timeout_s=1.0)) as worker:
        verdicts = worker.grade_batch(
            [*batch, ("x", Mode.SHORT, Finish.LENGTH, prompt()), ("x", None, Finish.STOP, prompt())]
        )
    names = ["CORRECT", *["RAISED"] * 4, "TIMED_OUT", "CRASHED", "CORRECT", "WRONG", "WRONG"]
    assert [verdict.outcome.name for verdict in verdicts] == names
    assert [verdict.reward for verdict in verdicts] == [1.0, *[None] * 6, 2.0, -0.5, -0.5]
    assert "RuntimeError: broken in two lines" in caplog.text
    assert "must return a float, got str" in caplog.text
    assert "must return a finite float, got nan" in caplog.text


def test_a_reward_function_is_found_in_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all libraries: a json.py beside it is none of theirs."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "apart.py").write_text("import json\n\ndef score(*given):\n    return len(json.dumps(None))\n")
    (tmp_path / "json.py").write_text("raise SystemExit('not the library')\n")
    with RewardWorker(RewardConf(function="apart:score"), folder=str(tmp_path)) as worker:
        (verdict,) = worker.grade_batch([("four", Mode.THINK, Finish.STOP, prompt())])
    assert verdict.reward == 4.0 and sys.path[-1] == str(tmp_path)


def test_a_functions_exception_becomes_a_failure_with_its_place(own: str, tmp_path: Path) -> None:
    """Type, message, file and line of its own innermost frame; the traceback once for each place."""
    texts = ["raise", "helper", "library", "none", "raise", "leave", "unspeakable", "hang", "exit", "hoard", "print"]
    batch = [(text, Mode.THINK, Finish.STOP, prompt(uid=text)) for text in texts]
    with RewardWorker(RewardConf(function=f"{own}:own", timeout_s=1.0, memory_mib=1024)) as worker:
        verdicts = worker.grade_batch(batch)
    names = [*texts[:4], "again", *texts[5:]]
    found = {name: one.failure for name, one in zip(names, verdicts, strict=True) if one.failure is not None}
    lines = (tmp_path / f"{own}.py").read_text().splitlines()

    def line_of(text: str) -> str:
        return f"{tmp_path / own}.py:{next(n for n, line in enumerate(lines, 1) if text in line)}"

    expected = {
        "raise": ("RuntimeError: broken in two lines", 'if response == "raise"'),
        "helper": ("KeyError: '5'", "def helper"),
        "library": ("ValueError: invalid literal for int() with base 10: 'five'", "int("),
        "none": (f"TypeError: {own}:own must return a float, got NoneType", "def own("),
        "again": ("RuntimeError: broken in two lines", 'if response == "raise"'),
        "leave": ("SystemExit: 3", 'if response == "leave"'),
        "unspeakable": ("Unspeakable: (its text raised ZeroDivisionError)", 'if response == "unspeakable"'),
        "hoard": ("MemoryError: ", "def hoard"),
    }
    for name, (error, line) in expected.items():
        failure = found[name]
        assert (failure.error, failure.where) == (error, line_of(line)), name
        assert failure.about == f"problem {'raise' if name == 'again' else name}"
        assert (failure.traceback is None) is (name == "again")
    traceback = found["helper"].traceback or ""
    assert "{}[answer]" in traceback and "custom.py" not in traceback
    assert found["hang"].error == "no end after 1 s" and found["exit"].error == "process ended: 0, twice"
    assert "print" not in found and verdicts[-1].reward == 1.25


@pytest.mark.parametrize(("text", "outcome"), [("hang", Outcome.TIMED_OUT), ("exit", Outcome.CRASHED)])
def test_a_function_that_never_returns_ends_the_batch_after_a_few_calls(
    own: str, text: str, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch says so after a few calls; once one has come back, every answer gets its own."""
    batch = [(text, Mode.THINK, Finish.STOP, prompt(uid=str(n))) for n in range(300)]
    with RewardWorker(RewardConf(function=f"{own}:own", timeout_s=1.0)) as worker:
        called: list[int] = []
        run = worker.pool.run

        def counted(calls: list[Call]) -> list[Reply]:
            called.append(len(calls))
            return run(calls)

        monkeypatch.setattr(worker.pool, "run", counted)
        verdicts = worker.grade_batch(batch)
        assert called == [4]
        assert {verdict.outcome for verdict in verdicts} == {outcome} and len(verdicts) == 300
        assert [one.failure and one.failure.about for one in verdicts] == [f"problem {n}" for n in range(300)]
        good = ("x", Mode.SHORT, Finish.STOP, prompt())
        assert [one.outcome for one in worker.grade_batch([good, *batch[:1], good])] == [
            Outcome.WRONG, outcome, Outcome.WRONG,
        ]  # fmt: skip
        assert worker.grade_batch([*batch[:5], good])[5].outcome is Outcome.WRONG


def test_a_check_that_gives_no_verdict_names_answer_and_gold(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"a b": ("power", (9,)), "c d": ("die", ()), "e f": ("leave", ())}
    with RewardWorker(RewardConf(timeout_s=0.7)) as worker:
        submit = worker.pool.submit
        monkeypatch.setattr(
            worker.pool, "submit", lambda call: submit((f"{own}:{calls[call[1][0]][0]}", calls[call[1][0]][1]))
        )
        batch = [short(answer, "long " * 90) for answer in calls]
        first, again = worker.grade_batch(batch), worker.grade_batch(batch[:1])
    assert [one.outcome for one in first] == [Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.RAISED]
    assert [one.failure and one.failure.error for one in first] == [
        "no end after 0.7 s",
        "process ended: -9, twice",
        "SystemExit: 3",
    ]
    for verdict, answer in zip(first, calls, strict=True):
        assert verdict.failure and verdict.failure.about == f"answer {answer!r}, gold {('long ' * 90)[:200]!r}"
    assert again[0].cached and again[0].failure == first[0].failure


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:fn", "cannot import no_such_module_here .*No module named.*PYTHONPATH"),
        ("math:no_such_function", "math has no function no_such_function"),
        ("math", "must read pkg.mod:fn"),
        ("math:pi", "pi is a float, not a function"),
        ("broken:fn", r"cannot import broken \(SyntaxError: .*broken.py, line 1\)"),
        ("leaves:fn", r"cannot import leaves \(SystemExit: 3\)"),
    ],
)
def test_a_function_that_cannot_be_imported_is_rejected_at_the_start(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken.py").write_text("def fn(:\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(BadInput, match=message) as caught:
        RewardWorker(RewardConf(function=name))
    said = str(caught.value)
    assert "\n" not in said and said.startswith("reward.function=") and "memory" not in said


def test_a_grading_process_that_cannot_start_names_its_memory() -> None:
    with pytest.raises(BadInput, match=r"memory_mib.*16"), RewardWorker(RewardConf(memory_mib=16)) as worker:
        worker.grade_batch([short("a b", "x")])


# ------------------------------------------------------------------ one at a time


def test_verdicts_are_available_as_checks_end() -> None:
    with RewardWorker(RewardConf(processes=2), needs_mode=False) as worker:
        plain = worker.begin(r"\boxed{5}", None, Finish.STOP, "5")
        assert isinstance(plain, Verdict) and plain.correct and worker.settle() == 0
        begun = [worker.begin(rf"\boxed{{x+{n % 3}}}", Mode.SHORT, Finish.STOP, f"{n % 3}+x") for n in range(9)]
        assert worker.under_way == 3  # different pairs
        while worker.under_way:
            assert worker.settle() > 0
        assert [one.verdict.outcome for one in begun if isinstance(one, Pending) and one.verdict] == (
            [Outcome.CORRECT] * 9
        )
        again = worker.begin(r"\boxed{x+1}", None, Finish.STOP, "1+x")
        assert isinstance(again, Verdict) and again.correct and again.cached


def test_a_failed_extraction_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str, *more: object) -> tuple[None, str]:
        if text == "fine":
            return None, "5"
        raise IndexError

    monkeypatch.setattr(reward.worker, "find_answer", broken)
    with RewardWorker(RewardConf()) as worker:
        batch = [(text, Mode.SHORT, Finish.STOP, prompt()) for text in ("fine", "bad", "fine")]
        found = [verdict.outcome for verdict in worker.grade_batch(batch)]
    assert found == [Outcome.CORRECT, Outcome.RAISED, Outcome.CORRECT]


# ------------------------------------------------------------------ what it counts


def test_the_tally_counts_outcomes_and_keeps_the_slowest() -> None:
    with RewardWorker(RewardConf()) as worker:
        assert not any(worker.tally.counts.values()) and worker.tally.slowest == []
        verdicts = worker.grade_batch([short("5", "5"), short("6", "5"), short("x+1", "1+x"), short("x+1", "1+x")])
        verdicts += worker.grade_batch([short("x+1", "1+x"), ("nothing", Mode.SHORT, Finish.STOP, prompt())])
        found = worker.tally
    assert sum(found.counts.values()) == 6 and list(found.counts) == list(Outcome)
    assert found.counts[Outcome.CORRECT] == 4 and found.counts[Outcome.WRONG] == 1
    assert sum(one.cached for one in verdicts) == 2
    slowest = found.slowest[0]
    assert (slowest.answer, slowest.gold, slowest.outcome) == ("x+1", "1+x", "correct")
    assert [one.seconds for one in found.slowest] == sorted((one.seconds for one in found.slowest), reverse=True)


def test_the_slowest_checks_kept_are_few_and_short() -> None:
    tally = Tally()
    for n in range(100):
        tally.add(Verdict(Outcome.WRONG, "a" * 1000, n / 7 % 1), ("g" * 1000, "h"))
    slowest = tally.slowest
    assert [one.seconds for one in slowest] == sorted((n / 7 % 1 for n in range(100)), reverse=True)[:10]
    assert all(len(one.answer) == len(one.gold) == 200 for one in slowest)


def test_slow_checks_are_reported_once_per_batch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds of a check are given in place of its gold answer."""
    with RewardWorker(RewardConf(timeout_s=0.4)) as worker:
        monkeypatch.setattr(worker, "begin", lambda text, *rest: Verdict(Outcome.WRONG, text[7:-1], float(rest[2])))
        worker.grade_batch([short("a b", "0.25"), short("c d", "0.3"), short("e f", "0.01")])
        worker.grade_batch([short("g h", "0.01")])
    assert len(caplog.records) == 1
    assert "2 of 3 checks took more than 0.2 s" in caplog.text and "'c d' against gold '0.3'" in caplog.text


def test_a_slow_check_is_reported(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardWorker(RewardConf(timeout_s=5.0)) as worker:
        submit = worker.pool.submit
        monkeypatch.setattr(worker.pool, "submit", lambda call: submit(("time:sleep", (1.1,))))
        (verdict,) = worker.grade_batch([short("a b", "x")])
    assert verdict.seconds >= 1.1 and "1 of 1 checks took more than 1 s" in caplog.text
