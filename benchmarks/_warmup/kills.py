"""A warm-up that is killed again and again ends in the bits of one that was left alone.

In: nothing but `small`. Out: figures. Must not know: how checkpoints are made.

Every chain is one warm-up, started by the same command until it ends: killed while it starts, twice between its first
and its last step, and while it finishes. A kill hits everything at a random moment (a lost machine), or the driver
alone at a random change of a file below the cache, while its actors live on for a moment (out of memory). After each
kill half a line is added to warmup.jsonl. Checkpoints are written after every step or every 0.3 s, by chance.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._figures import figure, say
from benchmarks._processes import MARK, end_all, marked
from benchmarks._runs import ROOT

STEPS = 150
SETTINGS = [
    "experiment=quickstart", f"warmup.steps={STEPS}", "warmup.arithmetic.levels=[2,4]",
    "warmup.arithmetic.weights=[0.3,0.7]",
]  # fmt: skip
CHAIN = ("start", "steps", "steps", "finish")  # where a chain's kills fall
POINTS = 20
LONGEST_S = 300.0  # that one launch may take
GONE_S = 60.0  # that actors may take to end
HALF = '{"step": 17, "loss": 0.3'


@dataclass
class Launch:
    """The command, under way. Everything of it is dead when the block ends."""

    cache: Path
    settings: list[str]
    program: list[str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __enter__(self) -> Launch:
        self.said = self.cache.parent / f"{self.mark}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        command = [*self.program, "warmup", *SETTINGS, *self.settings, f"warmup.cache={self.cache}"]
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment, MARK: self.mark, "RAY_TMPDIR": str(self.cache.parent)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self.process, self.mark)
        self.process.wait()

    def text(self) -> str:
        return self.said.read_text(errors="replace")

    def stepping(self) -> bool:
        """Whether it has done a step of its own."""
        return f"/{STEPS}" in self.text()

    def until_stepping(self) -> None:
        while not self.stepping() and self.process.poll() is None:
            if time.monotonic() > self.began + LONGEST_S:
                raise TimeoutError(f"timed out after {LONGEST_S:g} s waiting for a first step:\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def until_gone(self) -> None:
        """Actors whose driver was killed end by themselves."""
        end = time.monotonic() + GONE_S
        while there := marked(self.mark):
            if time.monotonic() > end:
                raise TimeoutError(f"processes {sorted(there)} are left {GONE_S:g} s after their driver was killed")
            time.sleep(0.1)

    def code(self) -> int:
        try:
            return self.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"timed out after {LONGEST_S:g} s:\n{self.text()[-3000:]}") from None


class Chains:
    """Warm-ups of one layout, against an undisturbed one."""

    def __init__(self, folder: Path, layout: list[str], seed: int):
        self.folder, self.layout, self.rng = folder, layout, random.Random(seed)
        self.kills = self.differ = self.lost = self.made = 0
        cache, counts = folder / "alone", folder / "counts"
        folder.mkdir()
        begin = time.monotonic()
        with Launch(cache, [*layout, "warmup.save_every_s=1e9"], doomed(cache, "/finished", 0, counts)) as launch:
            launch.until_stepping()
            self.start_s = time.monotonic() - begin
            self._succeeded(launch)
        self.steps_s = time.monotonic() - begin - self.start_s
        self.last_changes = int(counts.read_text())
        self.alone = result(cache)
        say(f"{layout}: first step after {self.start_s:.1f} s, the rest {self.steps_s:.1f} s, "
            f"{self.last_changes} changes of files at the end")  # fmt: skip

    def run(self, places: tuple[str, ...]) -> None:
        """One warm-up, ended at these places, then finished and compared."""
        self.made += 1
        cache = self.folder / f"chain-{self.made}"
        for place in places:
            self.kills += self._end(cache, place)
        with Launch(cache, self.layout, thinkless()) as launch:
            self._succeeded(launch)
        same = result(cache) == self.alone
        self.differ += not same
        left = sorted(path.name for path in cache.iterdir() if path.name.startswith("."))
        say(f"chain {self.made}: {'the same bits' if same else 'DIFFERS'}, left in the cache: {left or 'nothing'}")
        self.differ += same and bool(left)

    def _end(self, cache: Path, place: str) -> bool:
        """Whether the command was ended before its end."""
        often = f"warmup.save_every_s={self.rng.choice([0, 0.3])}"
        all_of_it = place == "start" or (place == "steps" and self.rng.random() < 0.5)
        number = self.rng.randint(1, self.last_changes if place == "finish" else 40)
        after = "/finished" if place == "finish" else "/checkpoints"
        program = doomed(cache, after, number) if place in ("steps", "finish") and not all_of_it else thinkless()
        with Launch(cache, [*self.layout, often], program) as launch:
            if program != thinkless():
                code, what = launch.code(), f"the driver at change {number} after the first of {after}"
                launch.until_gone()
            else:
                if place != "start":
                    launch.until_stepping()
                time.sleep(self.rng.uniform(0, self.start_s if place == "start" else 0.7 * self.steps_s))
                if place in ("SIGINT", "SIGTERM"):
                    what = place
                    launch.process.send_signal(getattr(signal, place))
                else:
                    what = "everything"
                    end_all(launch.process, launch.mark)
                code = launch.code()
            said = launch.text()
        wanted = {"SIGINT": 130, "SIGTERM": 143}.get(place, -signal.SIGKILL)
        if code not in (0, wanted):
            raise SystemExit(f"ended with {code}:\n{said[-3000:]}")
        for log in cache.glob(".*.partial/warmup.jsonl"):
            with log.open("a") as file:
                file.write(HALF)
        kept = [path.name for path in cache.glob(".*.partial/checkpoints/*")]
        self.lost += place == "finish" and not kept and not list(cache.glob("[!.]*/warmup.json"))
        how = "ended" if code else "not in time"
        say(f"  {place}, {what}, {often}: {how}; there is {kept or 'no checkpoint'}")
        return code != 0

    @staticmethod
    def _succeeded(launch: Launch) -> None:
        if code := launch.code():
            raise SystemExit(f"the warm-up ended with {code}:\n{launch.text()[-3000:]}")


def thinkless() -> list[str]:
    return [sys.executable, "-m", "orchestrator"]


def doomed(cache: Path, after: str, number: int, counts: Path = Path(os.devnull)) -> list[str]:
    return [sys.executable, "-m", "benchmarks._warmup.doomed", str(cache), after, str(number), str(counts)]


def result(cache: Path) -> dict[str, object]:
    """Every file of the finished warm-up, to the bit; of the logs all but the seconds."""
    (done,) = cache.glob("[!.]*/warmup.json")
    found: dict[str, object] = {}
    for path in sorted(done.parent.rglob("*")):
        if path.name == "warmup.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.name == "warmup.json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.is_file():
            found[str(path.relative_to(done.parent))] = path.read_bytes()
    return found


def killed(small: bool) -> None:
    layouts = (
        ("killed", ["warmup.ranks=2"], CHAIN, 1 if small else POINTS),
        ("killed_zero_1", ["warmup.ranks=2", "learner.zero_stage=1"], ("steps", "steps"), 2),
        ("killed_zero_2", ["warmup.ranks=2", "learner.zero_stage=2"], ("steps", "steps"), 2),
        ("stopped", ["warmup.ranks=1"], ("SIGINT", "SIGTERM", "SIGINT"), 3),
    )
    with tempfile.TemporaryDirectory(prefix="tl-", dir="/tmp") as scratch:  # Ray's sockets: a short path
        for number, (name, layout, places, points) in enumerate(layouts):
            if small and number:  # a run's own folder is enough to see that it works
                figure(f"warmup_{name}_differ", None, "finished warm-ups", 0)
                continue
            chains = Chains(Path(scratch) / name, layout, number)
            while chains.kills < points:
                chains.run(("steps",) if small else places[: points - chains.kills])
            if name == "killed":
                figure("warmup_kill_points", chains.kills, "kills at random moments", POINTS)
                figure("warmup_kills_lost_all", chains.lost, "kills at the end that left neither steps nor a model", 0)
            figure(
                f"warmup_{name}_differ",
                chains.differ,
                "finished warm-ups that differ in a bit from the undisturbed one, or leave something behind",
                0,
                kills=chains.kills,
            )
