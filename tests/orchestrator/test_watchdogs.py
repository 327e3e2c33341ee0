"""The watchdogs, of Ray and of actors: what they take for dead, stopped or hanging, and what not.

What they do to a real run is in test_faults.py.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.base.errors import ActorDied
from orchestrator.base.processes import Family, process, words
from orchestrator.cluster import actor_watch, ray_watch
from orchestrator.cluster.actor_watch import ActorWatch
from orchestrator.cluster.handles import PULSE
from orchestrator.cluster.ray_watch import LocalProcess, RayWatch, RemoteServer
from rollout.base.spans import Pulse


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    sleeper = subprocess.Popen(["sleep", "1000"])
    yield sleeper
    sleeper.kill()
    sleeper.wait()


def local(child: subprocess.Popen[bytes]) -> LocalProcess:
    known = process(child.pid)
    assert known is not None
    return LocalProcess("the raylet (process 1 on here)", known, stopped_s=10.0, dead_s=3.0)


def test_a_dead_process_is_reported_at_once(child: subprocess.Popen[bytes]) -> None:
    """Also while it is a zombie; and not another process that has its number."""
    watch = RayWatch([local(child)], "here:6379", Family())
    assert watch.look(0.0) == ""
    child.send_signal(signal.SIGKILL)
    while (found := process(child.pid)) and found.lives:
        pass
    lost = "the raylet (process 1 on here) of Ray at here:6379 has died, and nothing works without it"
    assert watch.look(1.0) == watch.lost == lost
    assert watch.limit_s == 3.0  # Ray would end this process without a word
    me = process(os.getpid())
    assert me is not None and LocalProcess("the raylet", replace(me, begin=me.begin - 1)).wrong(0.0) == "has died"


def test_a_stopped_process_is_reported_when_it_stays_so(child: subprocess.Popen[bytes]) -> None:
    """A debugger may look at it for a moment."""
    watched = local(child)
    child.send_signal(signal.SIGSTOP)
    while not ((found := process(child.pid)) and found.stopped):
        pass
    assert watched.wrong(0.0) == watched.wrong(9.0) == ""
    child.send_signal(signal.SIGCONT)
    while (found := process(child.pid)) and found.stopped:
        pass
    assert watched.wrong(9.5) == ""
    child.send_signal(signal.SIGSTOP)
    while not ((found := process(child.pid)) and found.stopped):
        pass
    assert watched.wrong(10.0) == watched.wrong(19.0) == ""
    assert watched.wrong(20.0) == "has been stopped for 10 s"


def test_the_end_of_ray_is_given_up_when_it_is_dead_or_takes_too_long(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private one's processes go before its end returns, so that their death alone is no reason."""
    never = threading.Event()

    def fails() -> None:
        raise ZeroDivisionError

    def of(*watched: LocalProcess) -> RayWatch:
        return RayWatch(watched, "here:6379", Family())

    assert of(local(child)).ended(lambda: None, private=True)
    with pytest.raises(ZeroDivisionError):
        of(local(child)).ended(fails, private=True)
    with monkeypatch.context() as short:
        short.setattr(ray_watch, "END_S", 0.1)
        assert not of(local(child)).ended(never.wait, private=True)
    watched = local(child)
    child.kill()
    child.wait()
    assert of(watched).ended(lambda: never.wait(0.6), private=True)
    monkeypatch.setattr(ray_watch, "DEAD_S", 0.1)
    assert not of(watched).ended(never.wait, private=False)
    never.set()


def test_what_a_private_ray_leaves_is_killed_and_nothing_else(child: subprocess.Popen[bytes]) -> None:
    agent = subprocess.Popen(["bash", "-c", "exec -a ray::DashboardAgent sleep 1000"])
    while not words(agent.pid)[0].startswith("ray::"):
        pass
    assert RayWatch([], "here:6379", Family()).ended(lambda: None, private=False) and agent.poll() is None
    assert RayWatch([], "here:6379", Family()).ended(lambda: None, private=True)
    assert agent.wait(30) == -signal.SIGKILL and child.poll() is None


def test_a_server_elsewhere_may_be_silent_for_a_while() -> None:
    """As while a link is cut."""
    answers = iter([True, False, False, True, False, False])

    def ask() -> None:
        if not next(answers):
            raise TimeoutError

    server = RemoteServer("the GCS on there", ask, silent_s=50.0)
    assert [server.wrong(now) for now in (0.0, 10.0, 50.0, 61.0, 70.0)] == [""] * 5
    assert server.wrong(120.0) == "has not answered for 50 s"


# ---- actors ----


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_watch, "own_node", lambda: "here")


class Answer:
    def __init__(self, value: Any):
        self.value = value

    def done(self) -> bool:
        return self.value is not None

    def wait(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Actor:
    """A handle of an actor that gives these signs of life, one at each call; None: no answer, ever."""

    def __init__(self, *pulses: Pulse | Exception | None, starts: bool = False):
        self.name, self.own, self.hung, self.starts = "rollout worker 0", {PULSE}, "", starts
        self.node = "here"
        self._pulses, self.kills = iter(pulses), 0

    def call(self, method: str) -> Answer:
        return Answer(next(self._pulses))

    def place(self) -> tuple[str, int] | None:
        return None if self.starts else (self.node, 1)

    def process(self) -> tuple[str, int] | None:
        return self.place()

    def kill(self) -> None:
        self.kills += 1


def kills(*pulses: Pulse | Exception | None, looks: int, starts: bool = False) -> tuple[int, str]:
    actor: Any = Actor(*pulses, starts=starts)
    watch = ActorWatch(lambda: [actor], hang_s=10.0)
    for _ in range(looks):
        watch.look(4.0)
    return actor.kills, actor.hung


def test_an_actor_without_a_sign_of_life_is_killed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert kills(Pulse(1.0), None, None, looks=4)[0] == 1  # two looks at 4 s each are silent, the third is above 10 s
    assert kills(Pulse(1.0), None, None, looks=3)[0] == 0
    assert capsys.readouterr().err == (
        "warning: rollout worker 0 is killed: it had made no progress for 12 s (cluster.hang_s=10)\n"
    )


def test_one_that_starts_takes_its_time() -> None:
    """At first, and again after its death: starting has limits of its own."""
    assert kills(None, looks=100) == (0, "")
    assert kills(Pulse(1.0), ActorDied("killed"), None, looks=100) == (0, "")
    assert kills(Pulse(1.0), None, looks=100, starts=True) == (0, "")  # it was not asked when it died


def test_one_that_is_stopped_while_it_starts_is_killed(child: subprocess.Popen[bytes]) -> None:
    """Its limit for starting may be many minutes."""
    actor: Any = Actor(None, starts=True)
    actor.process = lambda: ("here", child.pid)
    watch = ActorWatch(lambda: [actor], hang_s=10.0)
    for _ in range(8):
        watch.look(4.0)
    assert actor.kills == 0
    child.send_signal(signal.SIGSTOP)
    while not ((found := process(child.pid)) and found.stopped):
        pass
    for _ in range(3):
        watch.look(4.0)
    assert (actor.kills, actor.hung) == (1, "it had made no progress for 12 s (cluster.hang_s=10)")


def test_one_whose_host_is_silent_as_well_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut link: Ray decides when the host is dead. When it answers again, the actor has its time."""
    lost, there = Answer(ConnectionError("the node is gone")), Answer(process(os.getpid()))
    looks = iter([Answer(None)])
    monkeypatch.setattr(actor_watch, "process_there", lambda node, pid: next(looks))
    actor: Any = Actor(Pulse(1.0), None)
    actor.node = "elsewhere"
    watch = ActorWatch(lambda: [actor], hang_s=10.0)
    for _ in range(20):
        watch.look(4.0)  # the first look there is never answered
    assert actor.kills == 0
    watch, looks = ActorWatch(lambda: [actor], hang_s=10.0), iter([lost] * 10 + [there] * 4)
    actor._pulses = iter([Pulse(1.0), None])
    for _ in range(13):  # a pulse, the first look there, ten that fail, one that answers
        watch.look(4.0)
    assert actor.kills == 0
    for _ in range(2):
        watch.look(4.0)
    assert actor.kills == 1


def test_a_host_that_answers_late_saves_no_actor_from_being_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second look at its process takes longer than until the next one: the others count."""
    late = itertools.cycle([True, False])

    class Slow(Answer):
        def done(self) -> bool:
            return next(late)

    monkeypatch.setattr(actor_watch, "process_there", lambda node, pid: Slow(process(os.getpid())))
    actor: Any = Actor(Pulse(1.0), None)
    actor.node = "elsewhere"
    watch = ActorWatch(lambda: [actor], hang_s=10.0)
    for _ in range(10):
        watch.look(4.0)
    assert actor.kills == 1


def test_one_without_a_place_to_start_again_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    actor: Any = Actor(Pulse(1.0), None)
    watch = ActorWatch(lambda: [actor], hang_s=10.0)
    watch.look(4.0)
    actor.starts = True
    for _ in range(20):
        watch.look(4.0)
    assert actor.kills == 0
    assert capsys.readouterr().err == (
        "warning: rollout worker 0 has had no process for 32 s: if Ray has no place for it any more, the run waits for "
        "a host to join\n"
    )


def test_one_at_the_same_piece_of_work_for_too_long_is_killed() -> None:
    same = [Pulse(1.0, done=5, at_work=True)] * 8
    assert kills(*same, looks=4) == (1, "it had made no progress for 12 s (cluster.hang_s=10)")
    assert kills(*(Pulse(1.0, done=one, at_work=True) for one in range(8)), looks=8) == (0, "")
    assert kills(*[Pulse(1.0, done=5)] * 8, looks=8) == (0, "")  # it has nothing to do
    long = [Pulse(1.0, done=5, at_work=True, computed=seconds) for seconds in range(8)]  # a step of minutes
    assert kills(*long, looks=8) == (0, "")
    restarted = [Pulse(float(born), done=5, at_work=True) for born in (1, 1, 2, 2, 3, 3)]
    assert kills(*restarted, looks=6) == (0, "")


@pytest.mark.parametrize("node", ["here", "elsewhere"])
def test_a_stopped_learner_rank_is_killed_and_its_successor_is_not(
    node: str, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any host: one call at a time is answered, so its process is looked at."""
    monkeypatch.setattr(actor_watch, "process_there", lambda node, pid: Answer(process(pid)))
    rank: Any = Actor()
    rank.own, rank.process = (), lambda: (node, child.pid)
    watch = ActorWatch(lambda: [rank], hang_s=10.0)
    for _ in range(4):
        watch.look(4.0)
    assert rank.kills == 0
    child.send_signal(signal.SIGSTOP)
    while not ((found := process(child.pid)) and found.stopped):
        pass
    for _ in range(2):
        watch.look(4.0)
    assert rank.kills == 0
    watch.look(4.0)
    assert rank.kills == 1 and rank.hung == "it had made no progress for 12 s (cluster.hang_s=10)"
    rank.process = lambda: (node, os.getpid())
    for _ in range(8):
        watch.look(4.0)
    assert rank.kills == 1


def test_a_host_that_does_not_answer_makes_no_rank_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Answer(process(os.getpid())), Answer(ConnectionError("the node is gone")), Answer(None)])
    monkeypatch.setattr(actor_watch, "process_there", lambda node, pid: next(answers))
    rank: Any = Actor()
    rank.own, rank.process = (), lambda: ("elsewhere", 1)
    watch = ActorWatch(lambda: [rank], hang_s=10.0)
    for _ in range(20):
        watch.look(4.0)
    assert rank.kills == 0 and next(answers, None) is None
