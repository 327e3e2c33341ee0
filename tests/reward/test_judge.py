"""The judge: order kept, hung and killed checks are no verdicts, nothing left behind; a person's own function."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from conf.schema import ModelConf, RewardConf
from reward.cell import Pool, Status
from reward.judge import Judge
from reward.verdict import Outcome
from rollout.errors import BadInput
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

OWN = """
    import os, signal, time

    def echo(value): return value
    def slow(value): time.sleep(0.05 * (value % 3)); return value
    def power(base): return len(str(base ** base ** base))  # one big-integer power: hangs inside C
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    def die_once(path):
        if not os.path.exists(path):
            open(path, "w").close()
            die()
        return "survived"
    def hoard(): return len(bytearray(4 << 30))
    def pid(): return os.getpid()
    def lock(): return lambda: None
    def leave(): raise SystemExit(3)

    def own(problem, response, answer, mode):
        if response == "raise": raise RuntimeError("broken\\nin two lines")
        if response == "nan": return float("nan")
        if response == "text": return "1.0"
        if response == "none": return None
        if response == "hang": return len(str(9 ** 9 ** 9 ** 9))
        if response == "die": die()
        return len(response) / 4 if mode == "think" else -0.5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own, importable here and in the processes started from here."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def prompt(answer: str | tuple[str, ...] = "5", uid: str = "p") -> Prompt:
    return Prompt(uid, "2+3", np.zeros(2, np.int32), answer, "test")


def short(answer: str, gold: str | tuple[str, ...]) -> tuple[str, Mode | None, Finish, Prompt]:
    return rf"\boxed{{{answer}}}", Mode.SHORT, Finish.STOP, prompt(gold)


def gone(pid: int) -> bool:
    """Dead and reaped."""
    return not Path(f"/proc/{pid}").exists()


# ------------------------------------------------------------------ the pool


def test_order_is_kept(own: str) -> None:
    pool = Pool(2, 30, 2048)
    replies = pool.run([(f"{own}:slow", (value,)) for value in range(20)])
    assert [reply.value for reply in replies] == list(range(20))
    assert {reply.status for reply in replies} == {Status.DONE}
    pool.close()


def test_a_power_that_hangs_in_c_is_killed_and_the_rest_goes_on(own: str) -> None:
    pool = Pool(1, 1.0, 2048)
    pool.run([(f"{own}:echo", (0,))])
    start = time.monotonic()
    replies = pool.run([(f"{own}:echo", (1,)), (f"{own}:power", (9,)), (f"{own}:echo", (2,))])
    assert [reply.status for reply in replies] == [Status.DONE, Status.TIMED_OUT, Status.DONE]
    assert [replies[0].value, replies[2].value] == [1, 2]
    assert 1.0 <= replies[1].seconds < 3
    assert time.monotonic() - start < 10
    pool.close()


def test_death_is_retried_once(own: str, tmp_path: Path) -> None:
    pool = Pool(1, 30, 2048)
    replies = pool.run(
        [
            (f"{own}:die", ()),
            (f"{own}:echo", (1,)),
            (f"{own}:die_once", (str(tmp_path / "mark"),)),
            (f"{own}:echo", (2,)),
        ]
    )
    assert [reply.status for reply in replies] == [Status.DIED, Status.DONE, Status.DONE, Status.DONE]
    assert [reply.value for reply in replies[1:]] == [1, "survived", 2]
    pool.close()


def test_kill_9_at_any_moment_loses_nothing(own: str) -> None:
    pool = Pool(2, 30, 2048)
    pool.start()
    done = threading.Event()

    def kill() -> None:
        for _ in range(4):
            time.sleep(0.3)
            cells = list(pool.cells)
            if cells and not done.is_set():
                os.kill(cells[0].process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    replies = pool.run([(f"{own}:slow", (value,)) for value in range(60)])
    done.set()
    killer.join()
    assert [reply.value for reply in replies] == list(range(60))
    pool.close()


def test_kill_9_of_an_idle_process(own: str) -> None:
    pool = Pool(1, 30, 2048)
    (first,) = pool.run([(f"{own}:pid", ())])
    os.kill(first.value, signal.SIGKILL)
    (second,) = pool.run([(f"{own}:pid", ())])
    assert second.status is Status.DONE
    assert second.value != first.value
    pool.close()


def test_memory_is_limited_and_errors_are_told(own: str) -> None:
    pool = Pool(1, 30, 1024)
    replies = pool.run([(f"{own}:{name}", ()) for name in ("hoard", "lock", "leave", "missing")])
    assert {reply.status for reply in replies} == {Status.RAISED}
    assert replies[0].value.startswith("MemoryError")
    assert "SystemExit: 3" in replies[2].value
    assert "has no function 'missing'" in replies[3].value
    pool.close()


def test_the_limit_does_not_count_the_start(own: str) -> None:
    pool = Pool(1, 0.5, 2048, warm=("time:sleep", (1.0,)))
    (reply,) = pool.run([(f"{own}:echo", (1,))])
    assert reply.status is Status.DONE
    pool.close()


def test_nothing_is_left_behind(own: str) -> None:
    pool = Pool(2, 30, 2048)
    pool.start()
    pids = [cell.process.pid for cell in pool.cells]
    assert len(pids) == 2
    pool.close()
    pool.close()
    assert all(map(gone, pids))
    with pytest.raises(RuntimeError, match="closed"):
        pool.run([(f"{own}:echo", (1,))])
    forgotten = Pool(1, 30, 2048)
    forgotten.start()
    pid = forgotten.cells[0].process.pid
    del forgotten
    assert gone(pid)


def test_a_killed_owner_leaves_no_process() -> None:
    code = """
        import os
        from reward.cell import Pool
        pool = Pool(1, 1, 2048)
        pool.start()
        print(pool.cells[0].process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    code = textwrap.dedent(code)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 10
    while not gone(int(out.stdout)) and Path(f"/proc/{int(out.stdout)}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------ grading


def test_plain_answers_never_start_a_process() -> None:
    with Judge(RewardConf()) as judge:
        batch = [short(str(i % 10), "5") for i in range(128)]
        start = time.perf_counter()
        verdicts = judge.grade_batch(batch)
        assert time.perf_counter() - start < 0.1
        assert [verdict.correct for verdict in verdicts] == [i % 10 == 5 for i in range(128)]
        assert not judge.pool.cells
        assert judge.counts[Outcome.CORRECT] == 13


def test_every_outcome_in_order() -> None:
    with Judge(RewardConf(processes=2)) as judge:
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
            verdicts = judge.grade_batch(batch)
            assert [verdict.outcome.name for verdict in verdicts] == expected
        assert verdicts[0].extracted == "x+1"
        assert verdicts[4].extracted == r"\frac{x}{2}"
        assert all(verdict.reward is None for verdict in verdicts)


def test_a_hung_check_is_no_verdict_and_siblings_pay_once(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(calls):
        return [(f"{own}:power", (9,)) if "HANG" in args[1] else (f"{own}:echo", (True,)) for _, args in calls]

    with Judge(RewardConf(timeout_s=0.7)) as judge:
        run = judge.pool.run
        monkeypatch.setattr(judge.pool, "run", lambda calls: run(hang(calls)))
        batch = [short("a b", "x"), short("HANG", "x"), short("c d", "x"), short("HANG", "x")]
        start = time.monotonic()
        for _ in range(2):
            outcomes = [verdict.outcome for verdict in judge.grade_batch(batch)]
            assert outcomes == [Outcome.CORRECT, Outcome.TIMED_OUT, Outcome.CORRECT, Outcome.TIMED_OUT]
        assert time.monotonic() - start < 10
        assert judge.counts[Outcome.TIMED_OUT] == 4


def test_a_check_whose_process_is_killed_is_crashed(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Judge(RewardConf()) as judge:
        run = judge.pool.run
        monkeypatch.setattr(judge.pool, "run", lambda calls: run([(f"{own}:die", ()) for _ in calls]))
        assert judge.grade_batch([short("a b", "x")])[0].outcome is Outcome.CRASHED
        monkeypatch.setattr(judge.pool, "run", run)
        assert judge.grade_batch([short("a b", "b a")])[0].outcome is Outcome.CORRECT


def test_towers_end_within_the_limit() -> None:
    with Judge(RewardConf(timeout_s=2.0)) as judge:
        start = time.monotonic()
        verdicts = judge.grade_batch(
            [short("9^{9^{9^9}}", "3"), short(r"\sum_{n=1}^{9999} n^{n}", "3"), short("2^2-1", "3")]
        )
        assert time.monotonic() - start < 15
        assert verdicts[2].correct
        assert not any(verdict.correct for verdict in verdicts[:2])


def test_trajectories_are_decoded_and_graded(tmp_path: Path) -> None:
    from rollout.tokens import build_character_tokenizer, control_tokens, encode_response, load_tokenizer

    build_character_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path, ModelConf())
    control = control_tokens(tokenizer, ModelConf())

    def trajectory(mode: Mode | None, text: str, finish: Finish = Finish.STOP) -> Trajectory:
        first = [control.id_of(mode)] if mode else []
        ids = [*first, *encode_response(tokenizer, text), *([control.eos] if finish is Finish.STOP else [])]
        return Trajectory(prompt(), 0, np.array(ids, np.int32), np.zeros(len(ids), np.float32), mode, finish, (0, 0))

    given = [
        trajectory(Mode.SHORT, r"\boxed{5}"),
        trajectory(Mode.THINK, r"2+3=5</think>\boxed{5}"),
        trajectory(Mode.THINK, r"2+3=5\boxed{5}"),
        trajectory(None, r"\boxed{5}"),
        trajectory(Mode.SHORT, r"\boxed{5}", Finish.LENGTH),
        trajectory(Mode.SHORT, "\\boxed{\\text{é}}"),
    ]
    with Judge(RewardConf(), str(tmp_path), control) as judge:
        assert judge.texts(given)[:2] == [r"\boxed{5}", r"2+3=5</think>\boxed{5}"]
        names = [verdict.outcome.name for verdict in judge.judge(given)]
    assert names == ["CORRECT", "CORRECT", "CUT_OFF", "NO_MODE", "CUT_OFF", "WRONG"]


# ------------------------------------------------------------------ a function of one's own


def test_own_function(own: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["four", "raise", "nan", "text", "none", "hang", "die", "eightish"]
    batch = [(text, Mode.THINK, Finish.STOP, prompt(uid=text)) for text in texts]
    with Judge(RewardConf(function=f"{own}:own", timeout_s=1.0)) as judge:
        verdicts = judge.grade_batch(
            [*batch, ("x", Mode.SHORT, Finish.LENGTH, prompt()), ("x", None, Finish.STOP, prompt())]
        )
    names = ["CORRECT", *["CRASHED"] * 4, "TIMED_OUT", "CRASHED", "CORRECT", "WRONG", "WRONG"]
    assert [verdict.outcome.name for verdict in verdicts] == names
    assert [verdict.reward for verdict in verdicts] == [1.0, *[None] * 6, 2.0, -0.5, -0.5]
    assert "RuntimeError: broken in two lines" in caplog.text
    assert "must return a float, got str" in caplog.text
    assert "must return a finite float, got nan" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:fn", "cannot import 'no_such_module_here'"),
        ("math:no_such_function", "has no function 'no_such_function'"),
        ("math", "must be named pkg.mod:fn"),
        ("math:pi", "has no function 'pi'"),
    ],
)
def test_a_function_that_cannot_be_imported_stops_at_the_start(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Judge(RewardConf(function=name))
    assert "\n" not in str(caught.value)
