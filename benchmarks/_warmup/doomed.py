"""`thinkless` that kills itself at its N-th change of a folder, for kill points that no clock would find.

Run: python -m benchmarks._warmup.doomed FOLDER AFTER N COUNTS warmup ... Changes are files opened to be written, made
folders, renamings and removals below FOLDER by this process, from the first one on whose path contains AFTER. N = 0:
never; COUNTS is then the file in which the number of changes is left. Must not know: what the command does.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def changed(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that is about to be changed."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, (str, os.PathLike)) or not flags & (os.O_WRONLY | os.O_RDWR):
            return None
        return os.fspath(path)
    if event not in CHANGES or not isinstance(arguments[0], (str, os.PathLike)):
        return None
    path, within = os.fspath(arguments[0]), arguments[-1]
    if event in ("os.remove", "os.rmdir") and within >= 0:  # as shutil.rmtree goes: by an open folder
        path = os.path.join(os.readlink(f"/proc/self/fd/{within}"), path)
    return path


def watch(folder: str, after: str, number: int, counts: Path) -> None:
    state = {"begun": False, "count": 0}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path = changed(event, arguments)
        if path is None or not path.startswith(folder):
            return
        state["begun"] = state["begun"] or after in path
        state["count"] += state["begun"]
        if number and state["count"] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if not number:
        atexit.register(lambda: counts.write_text(str(state["count"])))


if __name__ == "__main__":
    folder, after, number, counts, *command = sys.argv[1:]
    watch(folder, after, int(number), Path(counts))
    from orchestrator.commands.cli import main

    main(command)
