"""TRL's own environment for benchmarks/trl.py: every package of benchmarks/trl.lock, in .bench/trl.

In: the lock. Out: the path of an interpreter, or `Failed`. An interrupted one is made anew by the next call, and two
calls at once wait for each other. Must not know: what is run there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"
LOCK = ROOT / "benchmarks" / "trl.lock"


class Failed(Exception):
    """One line: what, and what to do."""


def trl_python() -> Path:
    """The interpreter of TRL's environment, which is made, completed or brought up to date first when it has to be."""
    env = CACHE / "trl"
    stamp = hashlib.sha256(LOCK.read_bytes() + str(env).encode() + sys.version.encode()).hexdigest()
    with holding(CACHE / "trl.lock"):
        made = env / "made"
        if not (made.is_file() and made.read_text() == stamp):
            with contextlib.redirect_stdout(sys.stderr):
                make_environment(env)
            made.write_text(stamp)
    return env / "bin" / "python"


def trl_packages() -> Path | None:
    """The packages of TRL's environment, None where it has not been made."""
    if not (CACHE / "trl" / "made").is_file():
        return None
    return next((CACHE / "trl").glob("lib/python3*/site-packages"), None)


def make_environment(env: Path) -> None:
    """As `make setup` makes the project's: by uv, every package pinned, torch's CPU build."""
    spec = importlib.util.spec_from_file_location("thinkless_setup", ROOT / ".ci" / "setup.py")
    assert spec is not None and spec.loader is not None
    setup: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    env.mkdir(parents=True, exist_ok=True)
    try:
        with (CACHE / "trl-setup.log").open("w+") as log:
            with setup.Stage("TRL's environment", log):
                command = [sys.executable, "-I", "-m", "venv", "--without-pip", "--clear", env]
                code, output = setup.run(command, log, setup.variables(env))
                if code:
                    raise setup.Stop("python -m venv failed:\n" + setup.tail(output))
            setup.Uv(Path(sys.executable).with_name("uv"), env, log).install_lock(LOCK)
            with setup.Stage("import of TRL", log):
                command = [env / "bin" / "python", "-c", "from trl import GRPOTrainer"]
                code, output = setup.run(command, log, setup.variables(env))
                if code:
                    raise setup.Stop("TRL cannot be imported:\n" + setup.tail(output))
    except setup.Stop as stop:
        raise Failed(f"TRL's environment {env}: {stop}".replace("make setup", "benchmarks/trl.py")) from None


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Two benchmarks at once wait for each other."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
