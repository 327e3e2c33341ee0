"""What is done to a run, and when: drawn by a seed.

In: a random generator, a life, its run folder. Out: blows, delivered. Must not know: what comes of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._chaos.course import position, recorded
from benchmarks._chaos.life import Life

PAUSE_S = 5.0  # that a stopped driver stands still
HANG_S = 30  # cluster.hang_s of the runs: actors that are stopped for so long are replaced
NAMES = {signal.SIGKILL: "kill -9", signal.SIGSTOP: "stop", signal.SIGTERM: "terminate", signal.SIGINT: "Ctrl-C"}

# who, what, how often, whether the run has to go on by itself. A stopped grading process takes the time limit of its
# answer, as one that computes for ever does, and that answer then has no verdict: so it is only killed here.
VICTIMS = (
    ("driver", signal.SIGKILL, 5, False),
    ("driver", signal.SIGTERM, 2, False),
    ("driver", signal.SIGINT, 2, False),
    ("driver", signal.SIGSTOP, 1, True),  # and told to go on PAUSE_S later
    ("sampler", signal.SIGKILL, 4, True),
    ("sampler", signal.SIGSTOP, 1, True),
    ("reward actor", signal.SIGKILL, 4, True),
    ("reward actor", signal.SIGSTOP, 1, True),
    ("grading process", signal.SIGKILL, 4, True),
    ("learner rank", signal.SIGKILL, 4, True),
    ("learner rank", signal.SIGSTOP, 1, True),
    ("raylet", signal.SIGKILL, 2, False),
    ("raylet", signal.SIGSTOP, 1, False),
    ("gcs", signal.SIGKILL, 2, False),
    ("gcs", signal.SIGSTOP, 1, False),
)


def _has(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


# when: how often, and what is waited for, tried every few milliseconds
MOMENTS: dict[str, tuple[int, Callable[[Path], bool]]] = {
    "a step": (10, lambda folder: True),  # the next one: see `Blow.await_moment`
    "the start": (4, lambda folder: True),
    "a checkpoint": (4, lambda folder: _has(folder, "checkpoints/.step_*")),
    "the export": (2, lambda folder: _has(folder, ".model.partial")),
    "the evaluation": (2, lambda folder: (folder / "model" / "tokenizer_config.json").is_file()),
    "the report": (1, lambda folder: _has(folder, ".report.html*")),
}


@dataclass(frozen=True, slots=True)
class Blow:
    who: str
    number: signal.Signals
    survives: bool  # the run has to go on by itself
    moment: str
    delay: float  # behind the moment: a share of a step, or of the time until the first one

    def __str__(self) -> str:
        return f"{NAMES[self.number]} {self.who} at {self.moment} + {self.delay:.2f}"

    def await_moment(self, life: Life, folder: Path, start_s: float, step_s: float) -> bool:
        """False: the run has ended before. start_s, step_s: what an undisturbed run takes."""
        if self.moment == "the start":
            end = life.began + self.delay * start_s
            return life.until(lambda: time.monotonic() >= end, "its start") and not life.ended
        before = recorded(folder) if self.moment == "a step" else 0
        reached = MOMENTS[self.moment][1]
        there = (lambda: recorded(folder) > before) if self.moment == "a step" else (lambda: reached(folder))
        if not life.until(there, self.moment, 0.005) or life.ended:
            return False
        time.sleep(self.delay * step_s)
        return not life.ended

    def deliver(self, life: Life, rng: random.Random) -> bool:
        """False: there is no such process (yet, or any more)."""
        if not (found := life.victims(self.who)):
            return False
        pid = rng.choice(found)
        try:
            if self.number == signal.SIGINT:  # as a terminal sends it: to the whole process group
                os.killpg(pid, self.number)
            else:
                os.kill(pid, self.number)
        except ProcessLookupError:
            return False
        if self.who == "driver" and self.number == signal.SIGSTOP:
            time.sleep(PAUSE_S)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True

    def settled(self, life: Life, folder: Path) -> bool:
        """Waits until the run goes on (True) or has ended (False). Raises Hung."""
        places = {position(folder)}

        def gets_on() -> bool:
            places.add(position(folder))
            return len(places) > 2  # what was under way may still come, also with somebody dead

        return life.until(gets_on, f"progress after {self}")


def draw(rng: random.Random) -> Blow:
    who, number, _, survives = rng.choices(VICTIMS, [one[2] for one in VICTIMS])[0]
    moment = rng.choices([*MOMENTS], [weight for weight, _ in MOMENTS.values()])[0]
    return Blow(who, number, survives and moment != "the start", moment, rng.random())
