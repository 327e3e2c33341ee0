"""A user's module with functions that hang, crash and die, for the tests of grading processes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

OWN = """
    import os, signal, time

    def echo(value): return value
    def slow(value): time.sleep(0.05 * (value % 3)); return value
    def power(base): return len(str(base ** base ** base))  # one big-integer power: hangs inside C
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    def die_once(path):
        if not os.path.exists(path):
            open(path, "w").close()
            die()
        return "survived"
    def hoard(): return len(bytearray(4 << 30))
    def pid(): return os.getpid()
    def lock(): return lambda: None
    def leave(): raise SystemExit(3)

    class Unspeakable(Exception):
        def __str__(self): return 1 / 0

    def helper(answer): return {}[answer]

    def own(problem, response, answer, mode):
        if response == "raise": raise RuntimeError("broken\\nin two lines")
        if response == "nan": return float("nan")
        if response == "text": return "1.0"
        if response == "none": return None
        if response == "hang": return len(str(9 ** 9 ** 9 ** 9))
        if response == "die": die()
        if response == "leave": raise SystemExit(3)
        if response == "exit": os._exit(0)
        if response == "hoard": hoard()
        if response == "library": return int("five")
        if response == "helper": return helper(answer)
        if response == "print": print("a line of a person's own")
        if response == "unspeakable": raise Unspeakable
        return len(response) / 4 if mode == "think" else -0.5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The user's module, importable here and in the processes started from here."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name
