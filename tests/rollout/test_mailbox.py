"""Calls queued for the engine's thread: their order, and their errors when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from rollout.mailbox import Mailbox

PATIENCE_S = 10.0


def test_calls_run_in_order_and_errors_are_raised_in_their_callers() -> None:
    mailbox = Mailbox()
    ran: list[str] = []

    def note(name: str) -> Callable[[], str]:
        def run() -> str:
            ran.append(name)
            return name

        return run

    first, broken, last = mailbox.submit(note("a")), mailbox.submit(lambda: 1 // 0), mailbox.submit(note("b"))
    assert len(mailbox) == 3 and not ran
    mailbox.run_queued(lambda: False)
    assert ran == ["a", "b"] and (first.result(0), last.result(0)) == ("a", "b")
    with pytest.raises(ZeroDivisionError):
        broken.result(0)


def test_calls_when_idle_wait_for_what_runs_and_keep_their_order() -> None:
    mailbox, busy = Mailbox(), True
    ran: list[str] = []
    for name, when_idle in (("load 1", True), ("sample", False), ("load 2", True)):
        mailbox.submit(partial(ran.append, name), when_idle)
    mailbox.run_queued(lambda: busy)
    assert ran == ["sample"] and mailbox.draining
    busy = False
    mailbox.submit(lambda: ran.append("load 3"), when_idle=True)
    mailbox.run_queued(lambda: busy)
    assert ran == ["sample", "load 1", "load 2", "load 3"] and not mailbox.draining


def test_after_close_every_call_raises_the_error() -> None:
    mailbox, error = Mailbox(), RuntimeError("the engine died")
    postponed = mailbox.submit(int, when_idle=True)
    mailbox.run_queued(lambda: True)
    queued = mailbox.submit(int)
    mailbox.close(error)
    for call in (postponed, queued, mailbox.submit(int), mailbox.submit(int, when_idle=True)):
        with pytest.raises(RuntimeError, match="the engine died"):
            call.result(0)
    assert len(mailbox) == 0 and not mailbox.draining


def test_the_owner_sleeps_until_a_call_comes() -> None:
    mailbox, woken = Mailbox(), threading.Event()

    def own() -> None:
        mailbox.wait()
        woken.set()

    threading.Thread(target=own, daemon=True).start()
    assert not woken.is_set()
    mailbox.submit(int)
    assert woken.wait(PATIENCE_S)
    mailbox.wait()  # one is queued: at once
