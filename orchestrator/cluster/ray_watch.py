"""A watchdog of Ray itself: its raylet on this host and its GCS (the head's server of the cluster's state).

In: a connected Ray. Out: the end of this process's work (`orchestrator.base.interrupt`), with a line that says why.
Must not know: actors, what is saved.

Every call of Ray may wait for ever once one of them is dead or does not answer, so nothing here is one: processes of
this host are looked up in /proc, a GCS on another host is asked over a connection of its own, from a thread. What is
found ends the work as a signal would: first in order, with a checkpoint; at once if that takes too long.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.base import interrupt
from orchestrator.base.processes import Family, Process, process, processes, words

EVERY_S = 0.5
FAMILY_EVERY = 10  # looks at Ray
STOPPED_S = 10.0  # that a process may be stopped: somebody looks at it
# That a GCS on another host may be silent. A link may be away for 20 s; what is lost is to be said within 30, with a
# call that had just been answered and two that are not. Ray ends the process after 60 s.
SILENT_S = 24.0
SAFE_S = 20.0  # for the main thread to come to a place where the work can be saved
SAVE_S = 300.0  # for saving it
# Both without a raylet: its actors end with it, so that nothing can be saved, and Ray ends this process without a word
# when it needs the raylet once more, which it was seen to do after 13 s.
NO_RAYLET_S = 3.0
END_S = 30.0  # for a private Ray to end
DIED = "has died"
TITLE = "ray::"  # of its workers and agents; agents whose raylet has died stay for a minute
DEAD_S = 10.0  # for leaving one whose processes are gone


class Watched(Protocol):
    name: str  # example: "the raylet (process 12)"

    def wrong(self, now: float) -> str:
        """What is wrong with it for too long; empty: nothing."""


@dataclass(slots=True)
class LocalProcess:
    """A process of this host."""

    name: str
    known: Process
    stopped_s: float = STOPPED_S
    dead_s: float = SAVE_S  # that going on may take without it, see NO_RAYLET_S
    _since: float | None = None  # when it was first seen stopped

    def wrong(self, now: float) -> str:
        found = process(self.known.pid)
        if found is None or found.begin != self.known.begin or not found.lives:
            return DIED
        if not found.stopped:
            self._since = None
            return ""
        if self._since is None:
            self._since = now
        return f"has been stopped for {now - self._since:.0f} s" if now - self._since >= self.stopped_s else ""


@dataclass(slots=True)
class RemoteServer:
    """One that is asked. ask: returns, or raises what is wrong, within two seconds or so."""

    name: str
    ask: Callable[[], None]
    silent_s: float = SILENT_S
    _answered: float | None = None

    def wrong(self, now: float) -> str:
        with contextlib.suppress(Exception):  # whatever it is: no answer
            self.ask()
            self._answered = None
            return ""
        if self._answered is None:
            self._answered = now
        return f"has not answered for {now - self._answered:.0f} s" if now - self._answered >= self.silent_s else ""


@dataclass(slots=True)
class RayWatch:
    """`start` it when Ray is connected. `lost`: what is wrong with Ray; calls of it may never return then."""

    watched: Sequence[Watched]
    address: str  # of the head
    family: Family  # of this process; some of it may have no parent any more when it is to be killed
    lost: str = ""
    limit_s: float = SAVE_S
    _over: threading.Event = field(default_factory=threading.Event)
    _ending: bool = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog of Ray", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def ended(self, end: Callable[[], object], private: bool) -> bool:
        """Calls `end`, which leaves Ray, and ends it where it is private; raises its errors.

        False: it is given up, in a thread that may never return, because Ray died meanwhile, or because a private one
        takes too long; this process is then to be left without waiting (`orchestrator.base.leaving`).
        """
        self.family.look()
        self._ending, over, failed = True, threading.Event(), list[BaseException]()

        def body() -> None:
            try:
                end()
            except BaseException as error:  # raised below
                failed.append(error)
            finally:
                over.set()

        threading.Thread(target=body, name="end of Ray", daemon=True).start()
        limit = time.monotonic() + (END_S if private else math.inf)
        while not over.wait(EVERY_S):
            now = time.monotonic()
            if any(one.wrong(now) for one in self.watched):  # a private Ray's processes go before `end` returns
                limit = min(limit, now + DEAD_S)
            if now > limit:
                return False
        if private:
            self.family.kill(lambda one: words(one.pid)[0].startswith(TITLE))
        if failed:
            raise failed[0]
        return True

    def look(self, now: float | None = None) -> str:
        """What is wrong with Ray; empty: nothing."""
        for one in () if self.lost else self.watched:
            if wrong := one.wrong(time.monotonic() if now is None else now):
                self.lost = f"{one.name} of Ray at {self.address} {wrong}, and nothing works without it"
                if isinstance(one, LocalProcess) and wrong == DIED:
                    self.limit_s = one.dead_s
                break
        return self.lost

    def _run(self) -> None:
        for turn in itertools.count():
            if turn % FAMILY_EVERY == 0:
                self.family.look()
            if not self._ending and self.look():
                self._end()
                return
            if self._over.wait(EVERY_S):
                return

    def _end(self) -> None:
        interrupt.request(self.lost)
        end = time.monotonic() + min(SAFE_S, self.limit_s)
        while not interrupt.answered() and time.monotonic() < end:
            if self._over.wait(EVERY_S):
                return
        if interrupt.answered() and self._over.wait(self.limit_s):
            return
        interrupt.request(self.lost)


def watch_of(node: Any, asks: Callable[[str], Callable[[], None]], family: Family) -> RayWatch:
    """node: what Ray knows of this host; asks: of an address, makes the call to the GCS there (see `RemoteServer`)."""
    session = f"--session-name={node.session_name}"
    host, watched = node.gcs_address.rpartition(":")[0], list[Watched]()
    for one in processes():
        title = words(one.pid)
        program = title[0].rpartition("/")[2] if title else ""
        if program == "raylet" and session in title and f"--node_id={node.node_id}" in title:
            name = f"the raylet (process {one.pid} on {node.node_ip_address})"
            watched.append(LocalProcess(name, one, dead_s=NO_RAYLET_S))
        elif program == "gcs_server" and session in title:
            watched.append(LocalProcess(f"the GCS (process {one.pid} on {host})", one))
    if not any("GCS" in one.name for one in watched):
        watched.append(RemoteServer(f"the GCS on {host}", asks(node.gcs_address)))
    return RayWatch(watched, node.gcs_address, family)
