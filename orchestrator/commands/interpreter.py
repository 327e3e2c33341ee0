"""Run under the project's interpreter, whichever `python` started this file: a Ray job's is that of the cluster's head.

In: nothing but the standard library. Out: nothing, or another process image. Must not know: the other rooms.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NEEDED = ("ray", "omegaconf", "hydra", "torch", "vllm")
VARIABLE = "THINKLESS_PYTHON"  # environment variable that names an interpreter


def ensure_interpreter(module: str) -> None:
    """Replace this process by `python -m module` of the project's interpreter when this one lacks the packages."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return
    for candidate in candidates():
        if Path(candidate).is_file() and os.path.abspath(candidate) != os.path.abspath(sys.executable):
            os.execv(candidate, [candidate, "-m", module, *sys.argv[1:]])
    sys.exit(
        f"thinkless: {sys.executable} lacks {', '.join(missing)}, and no other interpreter is known: run `make setup` "
        f"on this machine, or set {VARIABLE} to the python of an environment that has them"
    )


def candidates() -> list[str]:
    """`THINKLESS_PYTHON`, the checkout's own environment, and the one that `make setup` noted last."""
    found = [os.environ[VARIABLE]] if VARIABLE in os.environ else []
    found.append(str(Path(__file__).parents[2] / ".venv" / "bin" / "python"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    note = cache / "thinkless" / "interpreter"
    if note.is_file():
        found.append(note.read_text().strip())
    return found
