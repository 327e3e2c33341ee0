"""Signals: the first is raised at the next wait, the second at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import ray

from conf.schema import ClusterConf
from orchestrator.base import interrupt
from orchestrator.base.interrupt import EndedAtOnce, Interrupted, defer_signals, raise_signals, saving, waiting_here
from orchestrator.base.processes import process
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.handles import RayHandle, wait_all


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    interrupt.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt.uninstall()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_a_command_with_nothing_to_save(number: int, code: int) -> None:
    with pytest.raises(EndedAtOnce):
        signal.raise_signal(number)
    assert interrupt.exit_code() == code
    signal.raise_signal(number)  # the clean-up is not disturbed


def test_the_first_signal_is_raised_once_at_the_next_wait(capfd: pytest.CaptureFixture[str]) -> None:
    done = []
    with pytest.raises(Interrupted), saving("the work is being saved"):
        try:
            signal.raise_signal(signal.SIGTERM)
            done.append("between two calls")
            with defer_signals(), waiting_here():
                done.append("a wait in what must be whole")
            with waiting_here():
                done.append("never")
        except Interrupted:
            with waiting_here():
                done.append("a wait while saving")
            raise
    assert done == ["between two calls", "a wait in what must be whole", "a wait while saving"]
    assert "interrupted: the work is being saved; a second Ctrl-C ends it at once" in capfd.readouterr().err


def test_a_part_of_what_must_be_whole_may_be_interrupted() -> None:
    done = []
    with pytest.raises(Interrupted), saving("saved"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        with waiting_here():
            done.append("whole")
        with raise_signals():
            with defer_signals(), waiting_here():
                done.append("whole within")
            with waiting_here():
                done.append("never")
    assert done == ["whole", "whole within"]


def test_a_wait_in_progress_ends_at_the_first_signal() -> None:
    with pytest.raises(Interrupted), saving("saved"), waiting_here():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on waiting")


@pytest.mark.heavy
def test_a_long_ray_get_ends_at_the_first_signal() -> None:
    """Ray's own loop, after a second in it, raises a KeyboardInterrupt of its own in place of the handler's."""
    with Cluster(ClusterConf()):
        sleeper = RayHandle(ray.remote(num_cpus=0)(Sleeper).remote(), "sleeper", 600.0)
        assert sleeper.call("sleep", 0).wait() == 0
        for wait in (lambda future: future.wait(), lambda future: wait_all([future])):
            interrupt.install()
            timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(Interrupted), saving("saved"):
                timer.start()
                wait(sleeper.call("sleep", 500))


class Sleeper:
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def test_work_that_never_waits_is_finished_before_the_signal_is_raised() -> None:
    done = []
    with pytest.raises(Interrupted), saving("saved"):
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done and interrupt.requested()


def test_the_second_signal_is_raised_anywhere() -> None:
    with pytest.raises(EndedAtOnce), saving("saved"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_reason_of_its_own_ends_the_work_like_a_signal(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted), saving("the work is being saved"), waiting_here():
        threading.Thread(target=interrupt.request, args=("the disk is gone",)).start()
        threading.Event().wait(60)
    assert interrupt.answered() and interrupt.exit_code() == 1 and interrupt.reason() == "the disk is gone"
    assert "\nthe disk is gone: the work is being saved; Ctrl-C ends it at once" in capfd.readouterr().err
    with pytest.raises(EndedAtOnce), saving("the rest"):
        interrupt.request("the disk is gone")


STUCK = """
import ctypes, signal, subprocess, sys, time
from orchestrator.base import interrupt, leaving
from orchestrator.base.processes import Family

family = Family()
leaving.kill_at_the_end(family.kill)
interrupt.install()
forks = "import signal, subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True); signal.pause()"
first = subprocess.Popen([sys.executable, "-c", forks], start_new_session=True)
while len(found := family.look()) < 2:
    time.sleep(0.01)
first.send_signal(signal.SIGSTOP)
pids = " ".join(str(one.pid) for one in found)
with leaving.noting(lambda: "to go on: again"), interrupt.saving("saved"):
    ctypes.CDLL(None).system(f"echo {pids}; exec sleep 1000".encode())  # without coming back to Python for a signal
"""


def test_a_second_signal_ends_a_process_whose_main_thread_is_stuck() -> None:
    """And all that it has started, a stopped process and one whose parent died among them."""
    stuck = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stuck.stdout is not None
    family = [int(pid) for pid in stuck.stdout.readline().split()]
    assert len(family) == 2
    os.kill(max(family), 0)
    for _ in range(2):
        assert stuck.poll() is None
        stuck.send_signal(signal.SIGTERM)
        time.sleep(0.1)  # two equal signals that are pending are one
    _, said = stuck.communicate(timeout=600)
    assert stuck.returncode in (130, 143) and said.strip() == "thinkless: interrupted; to go on: again"
    assert not [pid for pid in family if (found := process(pid)) and found.lives]


def test_an_error_after_the_first_signal_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), saving("saved"):
        signal.raise_signal(signal.SIGINT)
        _ = 1 / 0
