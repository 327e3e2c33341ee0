"""Lock files admit one process at a time and are released however their holder ends."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.base.errors import RunError
from orchestrator.base.lock import Taken, holder, locked, locked_in_turn, process_on

ROOT = Path(__file__).parents[2]
HOLD = "import sys, pathlib; from orchestrator.base.lock import locked\nwith locked(pathlib.Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_held_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    assert str(holder(path)).startswith(f"process {other.pid} on ")
    with pytest.raises(Taken, match=f"process {other.pid} "), locked(path):
        pytest.fail("two hold it")
    other.kill()
    other.communicate()
    assert path.exists() and holder(path) is None  # a killed process takes nothing away
    with locked(path):
        assert str(holder(path)).startswith(f"process {os.getpid()} on ")
    assert not path.exists() and holder(path) is None


def test_the_holder_is_told_with_host_command_and_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    monkeypatch.setattr(sys, "argv", ["/env/bin/thinkless", "train", "run.name=mine", "tracker.key=secret"])
    with locked(path), pytest.raises(Taken) as told, locked(path):
        pytest.fail("two hold it")
    words = rf"process {os.getpid()} on \S+, thinkless train since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(words, str(told.value))
    assert process_on(str(told.value)) == (os.getpid(), socket.gethostname()) and process_on("\0" * 9) is None


def test_the_lock_of_a_folder_that_has_replaced_this_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder / "lock"):
        shutil.rmtree(folder)
        folder.mkdir()
        with locked(folder / "lock"):
            assert holder(folder / "lock")
        (folder / "lock").write_text("another's")
    assert (folder / "lock").read_text() == "another's"


def test_a_folder_in_a_locks_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(RunError, match=r"lock must be a lock file and is a folder: remove it"),
        locked(tmp_path / "lock"),
    ):
        pytest.fail("it is no lock")
    assert holder(tmp_path / "lock") is None


def test_locked_in_turn_admits_one_process_at_a_time(tmp_path: Path) -> None:
    """Several that want the same: each has it alone, also when the file goes away between them."""
    path, inside, most = tmp_path / "lock", [], []

    def work(number: int) -> None:
        with locked_in_turn(path, "another"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6 and not path.exists()
