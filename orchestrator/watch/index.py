"""Run folders, followed: their figures as they come, and what each run is doing.

In: folders of runs, or a folder in which runs appear. Out: `Followed` runs. Must not know: how anything is shown.

Nothing is written, and no process of a run is asked: files that a run appends to are read on from where the last
refresh stopped, so that a refresh costs what is new. A refresh stops at its budget of time and the next one goes on; so
a page is there at once, however much there is to read.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.lock import holder, left_behind
from orchestrator.base.record import damaged, readable
from orchestrator.report.damage import as_left, unlike
from orchestrator.report.panels import Point
from orchestrator.report.read import (
    JsonObject,
    by_level,
    merged,
    mode_names,
    object_of,
    read_yaml,
    recorded_grpo,
    trains,
)
from orchestrator.sweeps import state as sweep
from orchestrator.training.run_dir import lock
from orchestrator.watch.curves import Curves, SteppedBack
from orchestrator.watch.tail import Tail

RECENT = 64  # records that are kept as they are: what advisories and "lately" look at
LATELY = 20  # steps whose mean is "lately"
BUDGET_S = 0.1  # of a refresh
DISCOVER_S = 2.0  # between two looks for new runs
FRESH_S = 60.0  # a run on a file system without locks that wrote something in this time is running


@dataclass(frozen=True, slots=True)
class State:
    name: str  # running, starting, finished, interrupted, died
    words: str


@dataclass(eq=False)
class Followed:
    """One run. Its curves are those of `orchestrator.report.figures.Curves`."""

    id: str  # unique among the runs that are followed
    folder: Path
    changed: int = 0  # the index's version when something new was read
    training: Curves = field(default_factory=Curves)
    warming: Curves = field(default_factory=Curves)
    recent: deque[JsonObject] = field(default_factory=lambda: deque(maxlen=RECENT))
    config: JsonObject = field(default_factory=dict)
    provenance: JsonObject = field(default_factory=dict)
    grpo: Sequence[JsonObject] = ()
    warned: tuple[int | None, float, bool, list[Any]] = (None, 0.0, False, [])  # advisories: at which version, when
    behind: bool = True  # there is more to read
    bars: tuple[tuple[int, int] | None, list[Any]] = (None, [])  # of its actors: of which timeline (time, size), they
    unreadable: str | None = None  # why its files cannot be read

    def __post_init__(self) -> None:
        self.metrics, self.warmup_file = Tail(self.folder / "metrics.jsonl"), Tail(self.folder / "warmup.jsonl")
        self._stamps: dict[str, tuple[int, int]] = {}  # of small files, as they were read
        self._compared: dict[str, tuple[int, int] | None] = {}  # of files, as they were compared with what was left
        self._cached: dict[str, list[Point]] = {}
        self._last: list[JsonObject] | None = None  # the last training steps
        self.damaged: set[str] = set()  # files of which something cannot be read

    @property
    def modes(self) -> list[str]:
        return mode_names(self.config)

    # ---- reading

    def read(self, most: int) -> tuple[bool, bool]:
        """Read on, about `most` bytes. Returns whether anything was new and whether there is more."""
        new = self._read_small("config.yaml", read_yaml, "config")
        if new:
            self.grpo = recorded_grpo(self.config)
        if not os.path.exists(self.folder / "config.yaml"):
            self.damaged.add("config.yaml")
        new |= self._read_small("provenance.json", _record, "provenance")
        self._compare()
        more = False
        for tail, name in ((self.metrics, "training"), (self.warmup_file, "warming")):
            found = tail.read(most)
            more |= found.more
            if found.anew:
                self._begin_again(name)
                self.damaged.discard(tail.path.name)
            for line in found.lines:
                record = object_of(line)
                if record is None or not isinstance(record.get("step"), int):
                    self.damaged.add(tail.path.name)
                    continue
                try:
                    getattr(self, name).add(record)
                except SteppedBack:
                    self._rebuild(tail, name)
                    break
                if name == "training":
                    self.recent.append(record)
            new |= bool(found.lines) or found.anew
        if new:
            self._cached, self._last = {}, None
        return new, more

    def _begin_again(self, name: str) -> None:
        setattr(self, name, Curves())
        if name == "training":
            self.recent.clear()

    def _rebuild(self, tail: Tail, name: str) -> None:
        """From all that was read of a file in which a resumed run repeats steps."""
        self._begin_again(name)
        with tail.path.open("rb") as file:
            lines = file.read(tail.offset).split(b"\n")
        for record in merged(record for line in lines if (record := object_of(line)) is not None):
            getattr(self, name).add(record)
            if name == "training":
                self.recent.append(record)

    def _compare(self) -> None:
        """With what the run noted of its files when it ended: a timeline has no checksums, and a file without a whole
        line has none to read."""
        left = as_left(self.provenance)
        for name in ("metrics.jsonl", "warmup.jsonl", "samples.jsonl", "timeline.json") if left else ():
            stamp = _stamp(self.folder / name)
            if self._compared.get(name, (0, 0)) != stamp:
                self._compared[name] = stamp
                if unlike(self.folder / name, left.get(name)):
                    self.damaged.add(name)

    def _read_small(self, name: str, read: Callable[[Path], JsonObject | None], target: str) -> bool:
        """Read a small file that is replaced as a whole, if it has changed."""
        stamp = _stamp(self.folder / name)
        if stamp is None or self._stamps.get(name) == stamp:
            return False
        value = read(self.folder / name)
        (self.damaged.add if value is None else self.damaged.discard)(name)
        setattr(self, target, value or {})
        self._stamps[name] = stamp
        return True

    @property
    def unread(self) -> tuple[int, int]:
        """Bytes read and there are, of the metrics."""
        return self.metrics.offset, max(self.metrics.size, self.metrics.offset)

    # ---- what it has

    @property
    def levels(self) -> list[str]:
        return sorted({key.partition("/level/")[2] for key in self.training.keys if "/level/" in key}, key=by_level)

    @property
    def last_step(self) -> int:
        return self.training.last_step

    @property
    def warmup(self) -> list[JsonObject]:
        return [{"step": int(step), "loss": loss} for step, loss in self.warming.curve("loss")]

    def curve(self, key: str) -> list[Point]:
        if key not in self._cached:
            self._cached[key] = self.training.curve(key)
        return self._cached[key]

    def lately(self, key: str) -> float | None:
        """The mean of a figure over the last training steps; None where it has no value in them."""
        if self._last is None:
            self._last = [record for record in self.recent if trains(record)][-LATELY:]
        known = [record[key] for record in self._last if isinstance(record.get(key), int | float)]
        return sum(known) / len(known) if known else None

    @property
    def steps(self) -> int | None:
        """Training steps that the run is to do."""
        run = self.config.get("run")
        steps = run.get("steps") if isinstance(run, dict) else None
        return steps if isinstance(steps, int) else None

    @property
    def last_time(self) -> float | None:
        """When its newest record was written, seconds since the epoch."""
        times = (record.get("time") for record in reversed(self.recent))
        return next((float(time) for time in times if isinstance(time, int | float)), None)

    def state(self, now: float) -> State:
        """What the run is doing: by its lock file, which its process holds until its end, however that comes."""
        found = self._state(now)
        named = f"; damaged: {', '.join(sorted(self.damaged))}" if self.damaged else ""
        return State(found.name, found.words + named)

    def _state(self, now: float) -> State:
        if self.unreadable:
            return State("interrupted", f"cannot be read ({self.unreadable})")
        held = holder(lock(self.folder))
        begun, whole = self.training.count > 0, bool(self.steps) and self.last_step >= (self.steps or 0)
        if held and not begun:
            loss = self.warming.last_step
            return State("starting", f"warming up, step {loss}" if loss else "starting or warming up")
        if held:
            return State("running", f"evaluating ({held})" if whole else f"running ({held})")
        sessions = self.provenance.get("sessions")
        last = sessions[-1] if isinstance(sessions, list) and sessions and isinstance(sessions[-1], dict) else {}
        if left_behind(lock(self.folder)):
            return State("died", "died: no process holds its lock any more")
        if whole:
            return State("finished", "finished")
        if not last.get("ended") and self.last_time is not None and now - self.last_time < FRESH_S:
            return State("running", "wrote a step within the last minute")
        at = f"at step {self.last_step}" if begun else "before its first step"
        return State("interrupted", f"stopped {at}")


def _stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written and its size; None: it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _record(path: Path) -> JsonObject | None:
    return None if damaged(path) else readable(path)


class Index:
    """All runs that are followed. `folders`: these runs, or those in these folders; new ones are found as they appear.

    version grows with everything that is new; `refresh` is for one thread at a time, and takes care of it.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = [Path(folder).absolute() for folder in folders]
        self.version = 0
        self.lock = threading.RLock()
        self._runs: dict[Path, Followed] = {}
        self._discovered = 0.0
        self._queue: list[Followed] = []  # those that the last refresh did not come to; read first by the next

    @property
    def runs(self) -> list[Followed]:
        """Named ones in the order given, those of a folder newest first."""
        with self.lock:
            return list(self._runs.values())

    def find(self, name: str) -> Followed | None:
        return next((run for run in self.runs if run.id == name), None)

    def refresh(self, budget_s: float | None = BUDGET_S, chunk: int = 1 << 19) -> float:
        """Read what is new, for about budget_s seconds (None: all of it). Returns the share that is read."""
        deadline = None if budget_s is None else time.monotonic() + budget_s
        with self.lock:
            self._discover()
            queue = deque([*self._queue, *(run for run in self._runs.values() if run not in self._queue)])
            while queue:
                run = queue.popleft()
                try:
                    new, run.behind = run.read(chunk)
                    run.unreadable = None
                except OSError as error:  # another user's, or a disk that is gone: the other runs are read on
                    new, run.behind = run.unreadable is None, False
                    run.unreadable = error.strerror or str(error)
                if new:
                    self.version += 1
                    run.changed = self.version
                if run.behind:
                    queue.append(run)
                if deadline is not None and time.monotonic() > deadline:
                    break
            self._queue = list(queue)
            return self._share()

    def _share(self) -> float:
        if not any(run.behind for run in self._runs.values()):
            return 1.0
        read, size = (sum(part) for part in zip(*(run.unread for run in self._runs.values()), strict=True))
        return min(0.99, read / size) if size else 0.0

    def _discover(self) -> None:
        now = time.monotonic()
        if self._runs and now - self._discovered < DISCOVER_S:
            return
        self._discovered = now
        found = list(dict.fromkeys(folder for given in self.folders for folder in runs_in(given)))
        if found == list(self._runs):
            return
        gone = self._runs.keys() - set(found)
        for folder in gone:
            del self._runs[folder]
        for folder in found:
            if folder not in self._runs:
                self._runs[folder] = Followed(self._id(folder), folder)
        self._runs = {folder: self._runs[folder] for folder in found}
        self._queue = [run for run in self._queue if run.folder in self._runs]
        self.version += 1

    def _id(self, folder: Path) -> str:
        """The folder's name, with its parent's where two have one name."""
        taken = {run.id for run in self._runs.values()}
        parts = folder.parts
        return next((name for k in range(1, len(parts)) if (name := "/".join(parts[-k:])) not in taken), str(folder))


def is_run(folder: Path) -> bool:
    """Or what is left of one."""
    return any(os.path.exists(folder / name) for name in ("config.yaml", "provenance.json"))  # False: none may be seen


def runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run's; the members of a sweep, in their order, where it is one's; else the runs
    in it, and in its folders, newest first."""
    if is_run(folder):
        return [folder]
    if (folder / sweep.FILE).is_file():
        found = sweep.load(folder)
        return [run for one in found if is_run(run := found.run_folder(one))]
    below = list(_below(folder, 2))
    return [path for _, path in sorted(below, key=lambda one: (-one[0], str(one[1])))]


def _below(folder: Path, depth: int) -> Iterator[tuple[float, Path]]:
    """(when it began, run) of the runs below a folder."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:  # gone, no folder, or not ours to look at
        return
    for path in entries:
        try:
            yield (path / "config.yaml").stat().st_mtime, path
        except FileNotFoundError:
            if depth > 1:
                yield from _below(path, depth - 1)
        except OSError:  # a file, a link to itself, another user's
            continue
