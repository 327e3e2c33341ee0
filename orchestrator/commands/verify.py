"""thinkless verify: answers with their golds in, verdicts out, a line for a line, as they come.

In: JSON lines (standard input or files). Out: one JSON line each, in order, as soon as its verdict and those before it
are there. Must not know: how answers are graded, models, Ray, Hydra.

Who waits for whom: this process waits for input and for ended checks at the same time (`RewardWorker.settle`). A plain
answer is settled at once. Any other waits in the window for its check, and what comes after it waits there, too: that
keeps the order, and the other processes busy. Reading stops while the window is full, or while nobody reads the output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from io import FileIO
from typing import Any

from conf.schema import RewardConf
from conf.settings import settings
from orchestrator.base import interrupt
from orchestrator.base.errors import RunError
from orchestrator.commands.verify_io import Unreadable, error_line, read_case, verdict_line
from reward.verdict import Verdict
from reward.worker import Pending, RewardWorker
from rollout.base.errors import BadInput
from rollout.trajectory import Finish

WINDOW = 4096  # lines that wait for a check, or behind one
WINDOW_BYTES = 64 << 20  # of their ids and golds
LONGEST = 64 << 20  # bytes of a line
CHUNK = 1 << 18  # bytes read at a time
POLL_EVERY = 32  # lines between two polls of the processes
SLOWEST = 3

Waiting = tuple[str | int, Pending]  # the id and what will be its verdict


def main(options: Namespace) -> None:
    """options: those of `orchestrator.commands.arguments`.

    Exits silently: with 141 when the reader of the output is gone, 130 on Ctrl-C, 143 on SIGTERM.
    """
    _complete(options)
    logging.getLogger("reward").setLevel(logging.CRITICAL)  # its messages are in the verdicts
    conf = RewardConf(
        processes=options.processes, timeout_s=options.timeout, memory_mib=options.memory_mib, strict=options.strict
    )
    try:
        with (
            RewardWorker(conf, needs_mode=False) as worker,
            _output(options.output, options.files) as out,
            _bar(options.progress) as counter,
        ):
            stream = Stream(worker, out, counter)
            for name in options.files:
                with _input(name) as file:
                    stream.read(file, name if len(options.files) > 1 else None)
            stream.finish()
        if options.summary:
            print(stream.summary(), file=sys.stderr, flush=True)
    except BrokenPipeError:
        sys.exit(141)  # what a shell says of a command that SIGPIPE ends
    except KeyboardInterrupt:
        sys.exit(interrupt.exit_code())
    except BadInput as error:
        raise BadInput(str(error).replace("reward.memory_mib", "--memory-mib")) from error
    if stream.unreadable:
        raise RunError(f"{stream.unreadable} of {stream.lines} lines could not be read")


class Stream:
    """Lines in, verdicts out."""

    def __init__(self, worker: RewardWorker, out: FileIO, counter: Any) -> None:
        """counter: `orchestrator.tracking.console.StreamProgress`, or None."""
        self.worker, self.out, self.counter = worker, out, counter
        self.lines = self.unreadable = 0
        self.done = self.correct = 0
        self._window: deque[tuple[bytes | Waiting, int]] = deque()  # a finished line, or one that waits; its bytes
        self._held = 0  # bytes, in all
        self._start = time.monotonic()

    def read(self, file: FileIO, name: str | None = None) -> None:
        """Every line of `file`, to its end, as far as it is there; verdicts go out meanwhile."""
        for number, line in enumerate(complete_lines(self._chunks(file)), start=1):
            if line is None or (line and not line.isspace()):
                self._take(line, number, name)

    def finish(self) -> None:
        """Wait for all verdicts."""
        while self._window:
            self._settle()

    def summary(self) -> str:
        found, seconds = self.worker.tally, time.monotonic() - self._start
        counts = ", ".join(f"{outcome.value} {count}" for outcome, count in found.counts.items() if count)
        share = f", {self.correct / self.done:.1%} correct" if self.done else ""
        said = [f"{self.done} answers in {seconds:.1f} s, {self.done / max(seconds, 1e-9):,.0f}/s{share}"]
        said += [f"outcomes: {counts}"] if counts else []
        for one in found.slowest[:SLOWEST]:
            said.append(f"slowest: {one.seconds:.3g} s, {one.outcome}, {one.answer[:60]!r} against {one.gold[:60]!r}")
        return "\n".join(said)

    def _chunks(self, file: FileIO) -> Iterator[bytes]:
        """What is in `file`; while there is nothing to read, verdicts are written."""
        chunk = None
        while chunk != b"":
            while self.worker.settle(None, [file]):
                self._write_ended()
            try:
                yield (chunk := os.read(file.fileno(), CHUNK))
            except BlockingIOError:
                continue

    def _take(self, line: bytes | None, number: int, name: str | None) -> None:
        self.lines += 1
        try:
            if line is None:
                raise Unreadable(f"longer than {LONGEST >> 20} MiB")
            case = read_case(line)
        except Unreadable as error:
            self.unreadable += 1
            self._put(error_line(error, number, name))
        else:
            begun = self.worker.begin(case.response, case.mode, Finish.STOP, case.gold, case.all_answers)
            if isinstance(begun, Verdict):
                self._put(self._line(case.id, begun))
            else:
                self._put((case.id, begun), max(0, len(line) - len(case.response)))
        if self.worker.under_way and (self.lines % POLL_EVERY == 0 or not isinstance(self._window[-1][0], bytes)):
            self._settle(0)
        while len(self._window) >= WINDOW or self._held > WINDOW_BYTES:
            self._settle()

    def _put(self, entry: bytes | Waiting, size: int = 0) -> None:
        if isinstance(entry, bytes):
            if not self._window:
                return self._write(entry)
            size = len(entry)
        self._held += size
        self._window.append((entry, size))

    def _settle(self, timeout_s: float | None = None) -> None:
        self.worker.settle(timeout_s)
        self._write_ended()

    def _write_ended(self) -> None:
        """Write the finished lines at the window's front."""
        ready = []
        while self._window:
            entry, size = self._window[0]
            if not isinstance(entry, bytes):
                id, pending = entry
                if pending.verdict is None:
                    break
                entry = self._line(id, pending.verdict)
            self._window.popleft()
            self._held -= size
            ready.append(entry)
        if ready:
            self._write(b"".join(ready))

    def _line(self, id: str | int, verdict: Verdict) -> bytes:
        self.done += 1
        self.correct += verdict.correct
        if self.counter is not None:
            self.counter.show(self.done, self.correct)
        return verdict_line(id, verdict)

    def _write(self, data: bytes) -> None:
        written = os.write(self.out.fileno(), data)
        while written < len(data):
            data = data[written:]
            written = os.write(self.out.fileno(), data)


def complete_lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Bytes as they are read -> lines, None for one that is too long. A long line is not copied more than once."""
    pieces: list[bytes] = []  # of the line that is not complete
    size = 0  # of all of them
    for chunk in chunks:
        for nth, piece in enumerate(chunk.split(b"\n")):
            if nth:
                yield b"".join(pieces) if size <= LONGEST else None
                pieces, size = [], 0
            size += len(piece)
            if size <= LONGEST:
                pieces.append(piece)
            else:
                pieces.clear()
    if size:
        yield b"".join(pieces) if size <= LONGEST else None


# ------------------------------------------------------------------ the command line


def _complete(options: Namespace) -> None:
    """Put in what depends on the terminal. Raises BadConfig or BadInput for values that cannot be."""
    options.files = options.files or ["-"]
    for key, option in (("processes", "processes"), ("timeout_s", "timeout"), ("memory_mib", "memory_mib")):
        settings()[f"reward.{key}"].refuse_outside(getattr(options, option), f"--{option.replace('_', '-')}")
    missing = [name for name in options.files if name != "-" and not os.path.exists(name)]
    if missing:
        raise BadInput(f"{missing[0]}: no such file")
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if options.progress is None:
        options.progress = watched and not (options.output is None and sys.stdout.isatty())
    options.summary = options.summary or watched


@contextlib.contextmanager
def _bar(wanted: bool) -> Iterator[Any]:
    if not wanted:
        yield None
        return
    from orchestrator.tracking.console import StreamProgress

    with contextlib.closing(StreamProgress()) as counter:
        yield counter


@contextlib.contextmanager
def _input(name: str) -> Iterator[FileIO]:
    if name == "-" and sys.stdin is not None and sys.stdin.isatty():
        print("reading cases from the terminal, one JSON object per line; Ctrl-D ends", file=sys.stderr)
    with FileIO(0, closefd=False) if name == "-" else FileIO(name) as file:
        yield file


@contextlib.contextmanager
def _output(path: str | None, files: list[str]) -> Iterator[FileIO]:
    if path is not None and os.path.exists(path):
        for name in files:
            if name != "-" and os.path.samefile(name, path):
                raise BadInput(f"--output {path} would overwrite the cases")
    with FileIO(1, "w", closefd=False) if path is None else FileIO(path, "w") as file:
        yield file
