"""Finds actors that hang, and kills their processes: Ray starts them again, or the run ends with their name.

In: handles of actors. Out: kills, each with a line on stderr, as is that one waits for a place to start again. Must not
know: what actors do.

An actor hangs when it gives for `hang_s` no sign of life (`pulse`, which a thread of its own answers), or is always
at the same piece of work and computes nothing. A process that works answers, whatever it does: long calls of torch
and vLLM do not hold Python's lock. A large model's step on a CPU may take minutes, but computes. What has a limit of
its own is not at work in this sense: loading weights, a check of an answer, an engine that starts. Of what answers
nothing meanwhile it is seen whether its process is stopped: of actors that start, and of learner ranks, which answer
one call at a time and have limits for each other.

Only time during which this process ran counts, so that nobody is to blame when the whole machine was asleep.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.base.errors import ActorDied
from orchestrator.base.processes import process
from orchestrator.cluster.handles import PULSE, RayFuture, RayHandle, own_node, process_there
from rollout.base.spans import Pulse

LOOKS = 8  # in the time after which an actor hangs
EVERY_S = 5.0  # at most, between two of them
COMPUTING = 0.1  # of a processor, at least
ABSENT_S = 30.0  # without a process, after which it is said


class Heart:
    """What is known of one actor."""

    def __init__(self, handle: RayHandle):
        self.handle = handle
        self.silent = 0.0  # seconds without progress
        self.absent = 0.0  # seconds without a process, of one that had one
        self._seen = False
        self._now: tuple[str, int] | None = None  # where its process was at this look
        self._pulse: Pulse | None = None  # the last one of this process of the actor; None: it has not begun to answer
        self._asked: RayFuture | None = None
        self._place: tuple[str, int] | None = None  # of one that has no pulse, or none yet
        self._looked: RayFuture | None = None  # for it, on another host
        self._stopped = False

    def look(self, passed: float) -> float:
        """passed: seconds since the last look. Returns seconds without progress."""
        self._now = self.handle.process()
        self.absent = self.absent + passed if self._seen and self._now is None else 0.0
        self._seen = self._seen or self._now is not None
        progress = self._answers(passed) if PULSE in self.handle.own else self._runs()
        if progress is not None:
            self.silent = 0.0 if progress else self.silent + passed
        return self.silent

    def _answers(self, passed: float) -> bool | None:
        """Whether it shows progress, or starts; None: it is not known, see `_cut_off`."""
        before = self._pulse
        if self._asked is None:
            self._asked = self.handle.call(PULSE)
        if not self._asked.done():
            if self.handle.place() is None:  # it starts again: Ray keeps the call for it
                self._pulse = None
            return self._runs() if self._pulse is None else self._cut_off()
        asked, self._asked = self._asked, None
        try:
            self._pulse = now = asked.wait()
        except ActorDied:
            self._pulse = None
            return True
        if before is None or before.born != now.born:
            self.handle.hung = ""  # that was its former process
            return True
        computes = now.computed - before.computed > COMPUTING * passed
        return computes or not now.at_work or now.done != before.done

    def _cut_off(self) -> bool | None:
        """None: its host, another one, has not answered either since the last look. What becomes of that, Ray decides
        (a host that is silent for a minute is dead), and such time counts neither for the actor nor against it."""
        if self._now is None or self._now[0] == own_node():
            return False
        if self._looked is not None and not self._looked.done():
            return None
        looked, self._looked = self._looked, process_there(*self._now)
        try:
            return False if looked is not None and looked.wait() is not None else None
        except Exception:  # the task that was to look there is lost
            return None

    def _runs(self) -> bool:
        """Whether its process is not stopped, as far as is known. Another host looks at its own when it comes to it."""
        self._place = self._place or self._now
        if self._place is None:
            return True
        node, pid = self._place
        if node == own_node():
            found = process(pid)
        else:
            self._looked = self._looked or process_there(node, pid)
            if not self._looked.done():
                return not self._stopped
            looked, self._looked = self._looked, None
            found = looked.wait()
        if found is None or not found.lives:
            self._place = None  # another may take its place
        self._stopped = found is not None and found.stopped
        return not self._stopped

    def forget(self) -> None:
        self._pulse = self._asked = self._looked = self._place = None
        self._stopped = False
        self.silent = 0.0


class ActorWatch:
    def __init__(self, actors: Callable[[], Sequence[RayHandle]], hang_s: float):
        self.actors, self.hang_s = actors, hang_s
        self.every_s = min(EVERY_S, hang_s / LOOKS)
        self._hearts: dict[int, Heart] = {}  # by the handle's identity
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog of actors", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.every_s):
            now = time.monotonic()
            self.look(min(now - before, 2 * self.every_s))
            before = now

    def look(self, passed: float) -> None:
        handles = self.actors()
        self._hearts = {id(one): self._hearts.get(id(one)) or Heart(one) for one in handles}
        for heart in self._hearts.values():
            with contextlib.suppress(Exception):  # Ray is ending, or the actor: others say so
                if heart.look(passed) >= self.hang_s:
                    self._kill(heart)
                if heart.absent >= ABSENT_S > heart.absent - passed:
                    self._tell_of(heart)

    def _tell_of(self, heart: Heart) -> None:
        print(
            f"warning: {heart.handle.name} has had no process for {heart.absent:.0f} s: if Ray has no place for it any "
            "more, the run waits for a host to join",
            file=sys.stderr,
            flush=True,
        )

    def _kill(self, heart: Heart) -> None:
        heart.handle.hung = f"it had made no progress for {heart.silent:.0f} s (cluster.hang_s={self.hang_s:g})"
        print(f"warning: {heart.handle.name} is killed: {heart.handle.hung}", file=sys.stderr, flush=True)
        heart.forget()
        heart.handle.kill()
