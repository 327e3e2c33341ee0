"""Which processes `tests.helpers.launched` takes for those of a command, and may therefore kill."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers import launched
from tests.helpers.launched import Watched

FAMILY = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.exit(child.wait())
"""


def alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_children_are_followed_but_not_those_of_a_process_with_a_used_number(tmp_path: Path) -> None:
    """A number of a process that has ended is given out again: what it starts then is somebody else's."""
    ours = Watched(["-c", FAMILY], tmp_path, program=[sys.executable])
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            stranger = int(other.stdout.readline())
            ours.known[other.pid] = psutil.Process(other.pid).create_time() - 60  # as if it had been one of ours
            child = int(ours.until(lambda: ours.out.strip(), "its child is there"))
            ours.until(lambda: child in ours.alive(), "its child is followed")
            ours.kill()
            assert stranger not in ours.known and alive(stranger)
            end = time.monotonic() + 60
            while alive(child) and time.monotonic() < end:  # a signal takes a moment
                time.sleep(0.05)
            assert not alive(child)
        finally:
            psutil.Process(stranger).kill()


def test_a_process_that_is_found_while_the_others_are_listed_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own thread looks for new ones at any moment."""
    ours = Watched(["-c", FAMILY], tmp_path, program=[sys.executable])
    title = launched._title

    def found_meanwhile(pid: int) -> str:
        ours.known[-pid] = 0.0
        return title(pid)

    ours.until(lambda: ours.process.pid in ours.alive(), "it is followed")
    monkeypatch.setattr(launched, "_title", found_meanwhile)
    assert ours.process.pid in ours.alive()
    monkeypatch.undo()
    ours.known = {pid: begin for pid, begin in ours.known.items() if pid > 0}
    ours.kill()
