"""Parts of a benchmark, each in a process of its own with a limit on its time; finished ones are not run again.

In: names of parts, a file of results. Out: figures as they come, on stdout and at the end of the file; the parts that
failed. Must not know: what a part measures.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _figures
from benchmarks._figures import say


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    function: str  # module:function, called with `small`
    minutes: float  # that it takes on an H100 or H200, about
    limit_s: float
    text: str  # what it measures


class _Sent:
    """A file that sends what is written to it, a figure at a time."""

    def __init__(self, connection: Any):
        self.connection = connection

    def write(self, text: str) -> None:
        if text.strip():
            self.connection.send(text.strip())

    def flush(self) -> None:
        pass


def _run(function: str, small: bool, connection: Any) -> None:
    """In the part's process, which leads a group with all that it starts."""
    os.setsid()
    _figures.figures_only()
    _figures._state["out"] = _Sent(connection)
    if small:
        _figures.without_goals()
    module, name = function.split(":")
    try:
        getattr(importlib.import_module(module), name)(small)
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None


def finished(out: Path | None, small: bool) -> set[str]:
    """Parts that the file says are done, in this form."""
    if out is None or not out.exists():
        return set()
    lines = [json.loads(line) for line in out.read_text().splitlines() if line.strip()]
    return {line["part"] for line in lines if line.get("finished") and line["small"] == small}


def run(parts: Iterable[Part], small: bool, out: Path | None, show: Callable[[str], None]) -> list[str]:
    """The names of those that failed. show: called with each line."""
    failed = []
    context: Any = multiprocessing.get_context("fork" if small else "spawn")  # small: what is imported is there already
    for part in parts:
        begin = time.monotonic()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(part.function, small, theirs), name=part.name)
        process.start()
        theirs.close()
        late = _collect(part, process, ours, begin + part.limit_s, out, show)
        seconds = time.monotonic() - begin
        if late or process.exitcode:
            failed.append(part.name)
            why = f"ran past its {part.limit_s:.0f} s" if late else f"exit code {process.exitcode}"
            say(f"--- {part.name}: FAILED after {seconds:.1f} s, {why}")
            _append(out, {"part": part.name, "finished": False, "small": small, "why": why})
        else:
            say(f"--- {part.name}: {seconds:.1f} s")
            _append(out, {"part": part.name, "finished": True, "small": small, "seconds": round(seconds, 1)})
    return failed


def _collect(
    part: Part, process: Any, connection: Any, deadline: float, out: Path | None, show: Callable[[str], None]
) -> bool:
    """Pass the part's figures on until it ends. True if it had to be ended."""
    late = True
    try:
        while connection.poll(max(deadline - time.monotonic(), 0.0)):
            line = connection.recv()
            show(line)
            _append(out, {**json.loads(line), "part": part.name})
    except EOFError:  # it has ended, or is about to
        process.join(10.0)
        late = process.is_alive()
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what it left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return late


def _append(out: Path | None, line: dict[str, Any]) -> None:
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
