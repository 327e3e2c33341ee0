"""Files in a working directory that have the names of libraries, and leave a mark when they are run in their place."""

from __future__ import annotations

from pathlib import Path

NAMES = ("numpy", "torch", "ray", "vllm", "sympy", "json", "random", "pickle", "socket", "pathlib", "multiprocessing")


def put_decoys(folder: Path) -> None:
    for name in NAMES:
        mark = str(folder / f"{name}-was-run")
        text = f"import sys\nopen({mark!r}, 'a').write(' '.join(sys.orig_argv) + chr(10))\nraise SystemExit({mark!r})\n"
        (folder / f"{name}.py").write_text(text)


def decoys_run(folder: Path) -> dict[str, str]:
    """Those that were run: name of the mark -> by which command lines."""
    return {mark.name: mark.read_text() for mark in folder.glob("*-was-run")}
