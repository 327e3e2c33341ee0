"""Start the real `thinkless` as its own process, watch what it takes, and see that nothing of it stays.

Processes are followed by descent and by a mark in their environment (Ray's titles overwrite that, and its daemons leave
their parent, so neither is enough alone).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rollout.base.network import GLOO

THINKLESS = str(Path(sys.executable).with_name("thinkless"))  # the console script of the interpreter that tests run in
SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 600.0  # seconds until a command counts as hanging: far above what a busy machine needs
SOON = 60.0  # from a fault to the end of the command, on a machine that may be busy with other things
CLEAN_UP = 30.0  # seconds that Ray's last processes may take to go after the command has ended

OF_THE_TESTS = ("RAY_", "THINKLESS_", "PYTEST_", GLOO)  # set by pytest, or by actors that ran in this process

Known = dict[int, float]  # pid -> when it was started
RUNNING: list[Watched] = []  # what a failed test leaves is killed after it (see conftest.py)


@dataclass
class Watched:
    """A running command. `wait` ends with an assertion error when it hangs."""

    arguments: list[str]
    folder: Path  # where it stands, and where its output goes
    environment: Mapping[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=lambda: [THINKLESS])
    watch_memory: bool = False
    peak_gib: float = 0.0  # proportional set sizes of all its processes, plus what /dev/shm has gained
    returncode: int | None = None
    outlives_tests: bool = False  # a fixture ends it

    def __post_init__(self) -> None:
        RUNNING.append(self)
        self.mark = uuid.uuid4().hex
        self.known: Known = {}
        self.others: set[int] = set()  # processes that are none of its own
        self.titles: dict[int, str] = {}
        self.shared_before = {path.name for path in SHARED_MEMORY.iterdir()}
        self.shared_used = psutil.disk_usage(str(SHARED_MEMORY)).used
        self.folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = self.folder / f"out-{self.mark}", self.folder / f"err-{self.mark}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OF_THE_TESTS)}
        environment |= {"THINKLESS_TEST_MARK": self.mark, **self.environment}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*self.program, *self.arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def error_lines(self) -> list[str]:
        """The lines that the command wrote about its failure."""
        return [line for line in self.err.splitlines() if line.startswith("thinkless: ")]

    def wait(self, timeout_s: float = PATIENCE) -> Watched:
        try:
            self.returncode = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} hung for {timeout_s:g} s:\n{self.err[-3000:]}") from None
        finally:
            self._stop.set()
            self._watcher.join()
        self._look(anew=True)
        return self

    def until(self, happened: Callable[[], Any], what: str, timeout_s: float = PATIENCE) -> Any:
        """Wait for something that the running command brings about."""
        end = time.monotonic() + timeout_s
        while not (found := happened()):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"{'it ended' if ended else 'time is up'} before {what}:\n{self.err[-3000:]}")
            time.sleep(0.1)
        return found

    def interrupt(self, number: int) -> None:
        """SIGINT as a terminal sends it on Ctrl-C: to the whole process group. Others as `kill` does."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self._look(anew=True)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def titled(self, start: str) -> list[int]:
        """Its living processes whose title begins so, for example an actor's ("ray::RolloutWorker")."""
        self._look()
        return [pid for pid in sorted(self.alive()) if _title(pid).startswith(start)]

    def listening(self) -> dict[str, str]:
        """Where its living processes accept connections: "127.0.0.1:4711" -> command line."""
        self._look()
        found = {}
        for pid, title in self.alive().items():
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(pid).net_connections("inet"):
                    if one.status == psutil.CONN_LISTEN:
                        address = one.laddr.ip.removeprefix("::ffff:")  # IPv4, at a socket of IPv6
                        found[f"{address}:{one.laddr.port}"] = title
        return found

    def alive(self) -> dict[int, str]:
        """Its processes that live: pid -> command line."""
        known = self.known.copy()  # the watching thread adds to it
        return {pid: _title(pid) or "?" for pid, begin in known.items() if _lives(pid, begin)}

    def left(self) -> list[str]:
        """What is still there of it after a while: processes, and names in /dev/shm that nobody holds."""
        end = time.monotonic() + CLEAN_UP
        while (there := [*self.alive().values(), *self.shared_left()]) and time.monotonic() < end:
            time.sleep(0.3)
        return there

    def shared_left(self) -> list[str]:
        """Names in /dev/shm that are new since it began, and that no process holds."""
        new = {}  # inode -> path
        for path in SHARED_MEMORY.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in self.shared_before:
                    new[path.stat().st_ino] = str(path)
        for process in psutil.process_iter() if new else ():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                    if f"{SHARED_MEMORY}/" in line:  # by any name: semaphores get theirs after they are mapped
                        new.pop(int(line.split()[4]), None)  # held by others who use this machine
        return sorted(new.values())

    def _watch(self) -> None:
        for turn in itertools.count():
            if self._stop.wait(0.3):
                return
            self._look(anew=turn % 20 == 0)
            if self.watch_memory and turn % 15 == 0:  # the kernel walks every page for it
                used = psutil.disk_usage(str(SHARED_MEMORY)).used - self.shared_used
                self.peak_gib = max(self.peak_gib, (sum(map(_proportional, self.alive())) + max(used, 0)) / 2**30)

    def _look(self, anew: bool = False) -> None:
        """Learn of processes that are new. anew: look again at those that were none of its own."""
        if anew:
            self.others.clear()
        mark = f"THINKLESS_TEST_MARK={self.mark}".encode()
        parents: dict[int, int] = {}
        for pid in psutil.pids():
            if pid in self.known or pid in self.others:
                continue
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                parents[pid] = process.ppid()
                if mark in Path(f"/proc/{pid}/environ").read_bytes():
                    self.known[pid] = process.create_time()
        grown = True
        while grown:
            grown = False
            for pid, parent in parents.items():
                ours = pid not in self.known and parent in self.known and parent != os.getpid()
                if ours and _lives(parent, self.known[parent]):  # not another process that got a dead one's number
                    with contextlib.suppress(psutil.Error):
                        self.known[pid] = psutil.Process(pid).create_time()
                        grown = True
        self.others |= parents.keys() - self.known.keys()


def thinkless(*arguments: str, folder: Path, **watched: Any) -> Watched:
    """Run a command to its end."""
    return Watched([*arguments], folder, **watched).wait()


def succeeded(done: Watched) -> Watched:
    assert done.returncode == 0, f"{done.arguments} gave {done.returncode}:\n{done.out[-1000:]}\n{done.err[-4000:]}"
    assert not (there := done.left()), there
    return done


def one_line_error(done: Watched) -> str:
    """The one line of a command that failed as it should."""
    assert done.returncode not in (0, None), f"{done.arguments} succeeded:\n{done.out[-1000:]}"
    assert "Traceback" not in done.err and len(done.error_lines) == 1, done.err[-4000:]
    assert done.err.rstrip().endswith(done.error_lines[0]), f"said something after it:\n{done.err[-2000:]}"
    assert not (there := done.left()), there
    return done.error_lines[0]


def _lives(pid: int, begin: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == begin and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _proportional(pid: int) -> int:
    """Proportional set size, bytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
