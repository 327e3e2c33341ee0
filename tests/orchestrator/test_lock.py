"""Lock files admit one process at a time and are released however their holder ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.base.lock import Taken, holder, locked, locked_in_turn

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
