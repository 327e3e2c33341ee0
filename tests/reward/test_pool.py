"""The process pool: every call is answered once, whatever its process does; no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from reward.pool import Pool, Reply, Status
from rollout.base.errors import BadInput


def gone(pid: int) -> bool:
    """Dead and reaped."""
    return not Path(f"/proc/{pid}").exists()


def test_replies_are_in_the_order_of_their_calls(own: str) -> None:
    pool = Pool(2, 30, 2048)
    replies = pool.run([(f"{own}:slow", (value,)) for value in range(20)])
    assert [reply.value for reply in replies] == list(range(20))
    assert {reply.status for reply in replies} == {Status.DONE}
    pool.close()


def test_a_call_that_hangs_in_c_is_killed_and_the_rest_completes(own: str) -> None:
    pool = Pool(1, 1.0, 2048)
    pool.run([(f"{own}:echo", (0,))])
    replies = pool.run([(f"{own}:echo", (1,)), (f"{own}:power", (9,)), (f"{own}:echo", (2,))])
    assert [reply.status for reply in replies] == [Status.DONE, Status.TIMED_OUT, Status.DONE]
    assert [replies[0].value, replies[2].value] == [1, 2]
    assert replies[1].seconds >= 1.0
    pool.close()


def test_a_call_whose_process_dies_is_retried_once(own: str, tmp_path: Path) -> None:
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


def test_killing_processes_at_any_moment_loses_no_call(own: str) -> None:
    pool = Pool(2, 30, 2048)
    pool.start()
    done = threading.Event()

    def kill() -> None:
        for _ in range(4):
            time.sleep(0.3)
            # a second death under the same call is that call's own: it would be reported
            sandboxes = [
                sandbox
                for sandbox in list(pool.sandboxes)
                if not any(task and task.died for task in list(sandbox.tasks))
            ]
            if sandboxes and not done.is_set():
                os.kill(sandboxes[0].process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    replies = pool.run([(f"{own}:slow", (value,)) for value in range(60)])
    done.set()
    killer.join()
    assert [reply.value for reply in replies] == list(range(60))
    pool.close()


def test_a_killed_idle_process_is_replaced(own: str) -> None:
    pool = Pool(1, 30, 2048)
    (first,) = pool.run([(f"{own}:pid", ())])
    os.kill(first.value, signal.SIGKILL)
    (second,) = pool.run([(f"{own}:pid", ())])
    assert second.status is Status.DONE
    assert second.value != first.value
    pool.close()


def test_memory_is_limited_and_errors_are_reported(own: str) -> None:
    pool = Pool(1, 30, 1024)
    replies = pool.run([(f"{own}:{name}", ()) for name in ("hoard", "lock", "leave", "missing")])
    assert {reply.status for reply in replies} == {Status.RAISED}
    assert replies[0].value.startswith("MemoryError")
    assert "SystemExit: 3" in replies[2].value
    assert "has no function missing" in replies[3].value
    pool.close()


def test_the_time_limit_excludes_the_start(own: str) -> None:
    pool = Pool(1, 0.5, 2048, warm=("time:sleep", (1.0,)))
    (reply,) = pool.run([(f"{own}:echo", (1,))])
    assert reply.status is Status.DONE
    pool.close()


def test_close_ends_every_process(own: str) -> None:
    pool = Pool(2, 30, 2048)
    pool.start()
    pids = [sandbox.process.pid for sandbox in pool.sandboxes]
    assert len(pids) == 2
    pool.close()
    pool.close()
    assert all(map(gone, pids))
    with pytest.raises(RuntimeError, match="closed"):
        pool.run([(f"{own}:echo", (1,))])
    forgotten = Pool(1, 30, 2048)
    forgotten.start()
    pid = forgotten.sandboxes[0].process.pid
    del forgotten
    assert gone(pid)


def test_a_killed_owner_leaves_no_process() -> None:
    code = """
        import os
        from reward.pool import Pool
        pool = Pool(1, 1, 2048)
        pool.start()
        print(pool.sandboxes[0].process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    code = textwrap.dedent(code)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 10
    while not gone(int(out.stdout)) and Path(f"/proc/{int(out.stdout)}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_dies_while_starting_is_replaced(own: str) -> None:
    pool = Pool(2, 30, 2048, warm=("time:sleep", (0.3,)))
    tickets = [pool.submit((f"{own}:echo", (value,))) for value in range(3)]
    assert len(pool.sandboxes) == 2 and not any(sandbox.ready for sandbox in pool.sandboxes)
    for sandbox in pool.sandboxes:
        os.kill(sandbox.process.pid, signal.SIGKILL)
    replies = everything(pool)
    assert [replies[ticket].value for ticket in tickets] == [0, 1, 2]
    pool.close()


def test_a_process_that_always_dies_while_starting_is_an_error(own: str) -> None:
    pool = Pool(1, 30, 2048, warm=(f"{own}:die", ()))
    with pytest.raises(BadInput, match=r"ended while starting .*exit -9.*memory_mib"):
        pool.run([(f"{own}:echo", (1,))])
    assert not pool.sandboxes
    pool.close()


def test_ended_processes_are_reaped(own: str) -> None:
    others = {*psutil.Process().children()}  # of the tests before
    pool = Pool(2, 0.5, 2048)
    pool.run([(f"{own}:die", ()), (f"{own}:power", (9,)), *[(f"{own}:echo", (n,)) for n in range(9)]])
    children = {*psutil.Process().children()} - others
    assert children and not [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
    pool.close()


# ------------------------------------------------------------------ one call at a time


def everything(pool: Pool) -> dict[int, Reply]:
    replies: dict[int, Reply] = {}
    while pool.under_way:
        for ticket, reply in pool.completed():
            assert ticket not in replies  # once
            replies[ticket] = reply
    return replies


def test_replies_are_identified_by_tickets(own: str) -> None:
    pool = Pool(2, 30, 2048)
    assert pool.completed() == [] and pool.under_way == 0  # nothing to wait for
    tickets = [pool.submit((f"{own}:slow", (value,))) for value in range(30)]
    assert pool.under_way == 30
    with pytest.raises(RuntimeError, match="30 submitted calls are under way"):
        pool.run([(f"{own}:echo", (1,))])
    replies = everything(pool)
    assert [replies[ticket].value for ticket in tickets] == list(range(30))
    assert pool.run([(f"{own}:echo", (1,))])[0].value == 1
    pool.close()


def test_other_file_descriptors_end_the_wait(own: str) -> None:
    pool = Pool(1, 30, 2048)
    reading, writing = os.pipe()
    os.write(writing, b"x")
    assert pool.completed(beside=[reading]) == []  # although nothing is under way
    ticket = pool.submit((f"{own}:power", (9,)))
    assert pool.completed(beside=[reading]) == [] and pool.completed(timeout_s=0) == [] and pool.under_way == 1
    os.read(reading, 1)
    os.kill(pool.sandboxes[0].process.pid, signal.SIGKILL)
    assert pool.completed(0.05, [reading]) == []  # time is up: it is tried again
    os.close(writing)
    assert pool.completed(beside=[reading]) == []  # its end
    os.close(reading)
    pool.close()
    assert ticket == 0 and pool.under_way == 0


def test_a_slow_call_does_not_delay_those_behind_it(own: str) -> None:
    pool = Pool(2, 3.0, 2048)
    slow = pool.submit((f"{own}:power", (9,)))
    quick = [pool.submit((f"{own}:echo", (value,))) for value in range(200)]
    order = []
    while pool.under_way:
        order += [ticket for ticket, _ in pool.completed()]
    assert order[-1] == slow and sorted(order[:-1]) == quick
    pool.close()


def test_reassigned_calls_are_answered_once(own: str) -> None:
    """The first takes long enough for those behind it to be given to the other process, and then ends."""
    pool = Pool(2, 30, 2048)
    pool.start()
    tickets = [pool.submit(("time:sleep", (0.5,))), *[pool.submit((f"{own}:echo", (n,))) for n in range(50)]]
    assert len(pool.sandboxes[0].tasks) > 1  # given ahead
    replies = everything(pool)
    assert [replies[ticket].value for ticket in tickets] == [None, *range(50)]
    more = [pool.submit((f"{own}:echo", (n,))) for n in range(50, 100)]
    replies = everything(pool)
    assert [replies[ticket].value for ticket in more] == list(range(50, 100))
    pool.close()


def test_long_calls_do_not_block_on_a_full_socket(own: str) -> None:
    """A socket that is full would stop us before we can stop the process."""
    pool = Pool(1, 1.0, 2048)
    long = "x" * 5_000_000
    replies = pool.run([(f"{own}:power", (9,)), *[(f"{own}:echo", (long,)) for _ in range(4)]])
    assert [reply.status for reply in replies] == [Status.TIMED_OUT, *[Status.DONE] * 4]
    assert all(reply.value == long for reply in replies[1:])
    pool.close()


def test_a_batch_of_calls_that_hang_ends(own: str) -> None:
    """Two processes have a second each: then limits are short, in which others still end, then the rest is given up."""
    pool = Pool(2, 0.5, 2048, hung_s=1.0)
    for _ in range(2):  # every batch has the budget anew
        pool.renew_budget()
        assert pool.limit_s == 0.5
        replies = pool.run([(f"{own}:power", (9,))] * 200)
        assert {reply.status for reply in replies} == {Status.TIMED_OUT}
        spent = sorted(reply.seconds for reply in replies)
        assert spent[0] == 0.0 and spent[-1] > 0.5 and sum(spent[:-2]) < 2 * 2 * 1.0  # two may be under way at the end
        assert pool.limit_s == pytest.approx(0.025)
    pool.renew_budget()
    pool._hung = pool.budget_s or 0.0
    replies = pool.run([(f"{own}:power", (9,)), *[(f"{own}:echo", (at,)) for at in range(20)]])
    assert [reply.value for reply in replies[1:]] == [*range(20)]
    assert replies[0].status is Status.TIMED_OUT and replies[0].seconds < 0.5
    pool.close()


def test_an_error_drops_all_calls(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1, 30, 2048)
    pool.start()
    first = pool.sandboxes[0].process.pid
    pool.submit((f"{own}:power", (9,)))
    with monkeypatch.context() as patched:
        patched.setattr(pool, "_deadline", lambda sandbox: 1 / 0)  # as good as Ctrl-C while it waits
        with pytest.raises(ZeroDivisionError):
            pool.completed()
    assert gone(first) and pool.under_way == 0
    assert pool.run([(f"{own}:echo", (2,))])[0].value == 2
    pool.close()
