"""One process of `thinkless`, from its start to its end, and everything that it starts.

In: a command line. Out: its processes by what they are, its output, how it ended, what it left behind. Must not know:
why it dies.

Processes are known by a mark in their environment and by descent: Ray's titles overwrite the first, its daemons leave
their parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks._processes import MARK, marked

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "orchestrator"]
LOOK_S = 0.2  # between two looks for new processes
GONE_S = 180.0  # that a run's last processes may take: Ray's agents outlive a killed driver by a minute
LIMIT_S = 600.0  # without any progress: it hangs. Far above what a busy machine needs
TITLES = {  # victims by the beginning of their titles or the name of their programs
    "sampler": "ray::RolloutWorker",
    "reward actor": "ray::RewardWorker",
    "learner rank": "ray::LearnerWorker",
    "raylet": "raylet",
    "gcs": "gcs_server",
}


class Hung(Exception):
    """Nothing happened for LIMIT_S."""


class Life:
    def __init__(self, arguments: Sequence[str], folder: Path):
        """folder: where it stands, and where its output goes."""
        self.mark, self.began = uuid.uuid4().hex, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.files = folder / f"{self.mark}.out", folder / f"{self.mark}.err"
        self._known: dict[int, float] = {}  # process id -> when it was started
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "THINKLESS_"))}
        environment |= {MARK: self.mark, "PYTHONPATH": str(ROOT)}
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def err(self) -> str:
        return self.files[1].read_text(errors="replace")

    @property
    def done(self) -> bool:
        """Whether a run has said everything: its folder, at first and once more behind its results."""
        lines = self.files[0].read_text(errors="replace").splitlines()
        return len(lines) > 1 and lines[-1].startswith("run folder: ")

    def victims(self, who: str) -> list[int]:
        """Process ids; "driver" is the command itself, "grading process" what a reward actor has started."""
        self._look()
        alive = self.alive()
        if who == "driver":
            return [] if self.ended else [self.process.pid]
        if who == "grading process":
            graders = {pid for pid, title in alive.items() if title.startswith(TITLES["reward actor"])}
            return sorted(pid for pid in alive if _parent(pid) in graders)
        start = TITLES[who]
        named = (start if start.startswith("ray::") else None, f"/{start}")
        return sorted(
            pid
            for pid, title in alive.items()
            if (named[0] and title.startswith(named[0])) or title.split(" ")[0].endswith(named[1])
        )

    def alive(self) -> dict[int, str]:
        """Process ids with their titles."""
        found = {}
        for pid, begin in [*self._known.items()]:
            with contextlib.suppress(psutil.Error):
                one = psutil.Process(pid)
                if one.create_time() == begin and one.status() != psutil.STATUS_ZOMBIE:
                    found[pid] = " ".join(one.cmdline()) or one.name()
        return found

    def until(self, happened: Callable[[], bool], what: str, every_s: float = 0.05) -> bool:
        """Waits for something that it brings about; False: it has ended before. Raises Hung after LIMIT_S."""
        end = time.monotonic() + LIMIT_S
        while not happened():
            if self.ended:
                return happened()
            if time.monotonic() > end:
                raise Hung(f"waited {LIMIT_S:g} s for {what}")
            time.sleep(every_s)
        return True

    def left(self) -> list[str]:
        """What still runs of it a while after its end; it is killed then."""
        end = time.monotonic() + GONE_S
        while (there := self.alive()) and time.monotonic() < end:
            time.sleep(0.2)
        self.close()
        return sorted(there.values())

    def close(self) -> None:
        """Kills what there is of it."""
        self._look()
        self._over.set()
        for pid in (*self.alive(), *([] if self.ended else [self.process.pid])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        """Learn of processes that are new."""
        parents: dict[int, int] = {}
        mine = marked(self.mark)
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.pid in mine:
                    self._known.setdefault(one.pid, one.create_time())
                elif one.pid not in self._known:
                    parents[one.pid] = one.ppid()
        living, grown = set(self.alive()), True
        while grown:
            grown = False
            for pid, parent in [*parents.items()]:
                if parent in living and pid != os.getpid():
                    with contextlib.suppress(psutil.Error):
                        self._known[pid] = psutil.Process(pid).create_time()
                        living.add(pid)
                        grown = True
                    del parents[pid]


def _parent(pid: int) -> int:
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return 0
