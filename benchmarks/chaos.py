"""Whether anything is lost when anything dies. Run: python benchmarks/chaos.py --kills 200 --seed 0

One short run is left alone. Others like it (two samplers, two learner ranks, one reward actor on a private Ray; two
of three on-policy, one a batch ahead; every second one colocated; some with a warm-up of their own) are killed, stopped
and interrupted at random: driver, samplers, reward actor, grading processes, learner ranks, raylet, GCS, each with
SIGKILL and SIGSTOP; while they start, train, write a checkpoint, export, evaluate, report. After some deaths a file of
the run folder is damaged. Each run is resumed until it has done all of its stages, then compared with the one that was
left alone.

    chaos_kills, chaos_damages       signals that were delivered; files that were damaged
    chaos_runs, chaos_resumes        runs that reached their end, and how often they were begun again
    chaos_survived                   signals after which the run went on by itself, as it has to
    chaos_lost, chaos_duplicated     steps and answers that are missing, or there twice
    chaos_wrong                      on-policy runs: figures, answers, final weights, evaluations that differ in any bit
    chaos_hangs                      runs without progress for ten minutes
    chaos_unclear                    ends without one clear line, with a traceback, or that leave processes behind;
                                     runs that ended though they have to go on
    chaos_silent                     damage that was not named and is not harmless

Exit code 1 if any of the last six is not 0. Draws depend on the seed alone; at which instruction a signal arrives does
not. What is told of a fault stands on stderr, and with --out in that folder, with everything that was printed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._chaos.blows import HANG_S, Blow, draw
from benchmarks._chaos.course import compare, recorded
from benchmarks._chaos.damages import Damage, damaged
from benchmarks._chaos.life import Hung, Life
from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._runs import runs_folder

STEPS, WARM_UP = 18, 150
MANY = 100_000
SETTINGS = [
    "experiment=quickstart", "data.arithmetic.levels=[2,4]", "data.arithmetic.weights=[0.7,0.3]",
    "warmup.arithmetic.levels=[2,4]", "warmup.arithmetic.weights=[0.3,0.7]", "warmup.short_weight=1",
    f"warmup.steps={WARM_UP}", "warmup.save_every_s=2", f"run.steps={STEPS}", "run.save_every=3",
    "run.samples_per_step=5", "run.logprob_check_every=2", "rollout.prompts_per_step=4", "rollout.group_size=4",
    "rollout.workers=2", "rollout.num_cpus=0.2", "rollout.kv_cache_gib=0.25", f"rollout.max_restarts={MANY}",
    "learner.ranks=2", "learner.num_cpus=0.2", "learner.schedule=constant", "reward.timeout_s=120",
    "reward.function=benchmarks._chaos.scored:score",
    f"reward.max_restarts={MANY}", f"learner.max_restarts={MANY}", "validation.size=8", "evaluate.every=4",
    "evaluate.questions=8", f"cluster.hang_s={HANG_S}",
]  # fmt: skip
AHEAD = ["run.max_staleness=1", "algorithm.importance=truncate"]
COLOCATED = ["cluster.placement=colocated", "rollout.on_weight_sync=recompute"]  # the run left alone is not
DAMAGED, OWN_WARM_UP = 0.3, 0.15  # shares: of deaths that damage follows, of runs with a warm-up of their own
FAULTS = ("lost", "duplicated", "wrong", "hangs", "unclear", "silent")
COUNTS = {"kills": "signals", "damages": "files", "runs": "runs", "resumes": "lives", "survived": "signals"}
SMALL = 10  # kills
PATIENCE = 25  # lives of one run, after which it is left alone


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def add(self, kind: str, *lines: str) -> None:
        for line in lines:
            self.counts[kind] += 1
            self.told.append(f"{kind}: {line}")
            say(self.told[-1])


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The run that is left alone, and how long it took."""

    folder: Path
    cache: Path
    start_s: float  # until its first step
    step_s: float


def left_alone(root: Path) -> Undisturbed:
    begin = time.monotonic()
    cache, folder = root / "warmup", root / "undisturbed"
    say("the warm-up, and a run that is left alone")
    warm = Life(["warmup", *SETTINGS, f"warmup.cache={cache}"], root / "printed")
    _finished(warm)
    life = Life(_begun(folder, cache, exact=True, colocated=False), root / "printed")
    life.until(lambda: recorded(folder) > 0, "a first step")
    started = time.monotonic()
    life.until(lambda: recorded(folder) >= STEPS, "its last step")
    trained = time.monotonic()
    _finished(life)
    one = Undisturbed(folder, cache, started - life.began, (trained - started) / STEPS)
    spent = time.monotonic() - begin
    say(f"undisturbed: {one.start_s:.0f} s to the first step, then {one.step_s:.1f} s each; {spent:.0f} s in all")
    return one


def _finished(life: Life) -> None:
    life.until(lambda: life.ended, "its end")
    if life.process.returncode or life.left():
        sys.exit(f"error: a run that nobody disturbed failed:\n{life.err[-3000:]}")


def _begun(folder: Path, cache: Path, exact: bool, colocated: bool) -> list[str]:
    where = [f"run.root={folder.parent}", f"run.name={folder.name}", f"warmup.cache={cache}"]
    return ["train", *SETTINGS, *([] if exact else AHEAD), *(COLOCATED if colocated else []), *where]


class Run:
    """One run, from its beginning through all its deaths to its end."""

    def __init__(self, root: Path, number: int, seed: int, reference: Undisturbed, tally: Tally):
        self.rng = random.Random(f"{seed}-{number}")
        self.folder, self.printed = root / f"run-{number}", root / "printed" / f"run-{number}"
        self.exact, self.colocated = number % 3 != 2, number % 2 == 1
        own = self.rng.random() < OWN_WARM_UP
        self.cache = root / f"warmup-{number}" if own else reference.cache
        self.reference, self.tally = reference, tally
        self.named: set[str] = set()  # files that were damaged, and said to be
        self.unnamed: set[str] = set()  # and of which nothing was said
        self.number, self.lives = number, 0
        self.begun: list[Life] = []
        self.killed: list[Life] = []  # those whose driver was killed
        self.last: Blow | None = None  # that this life has met

    def through(self, kills: int) -> int:
        """Returns how many of `kills` were delivered until its end."""
        done, damage = 0, None
        try:
            for self.lives in range(1, 2 * PATIENCE + 1):
                life = Life(self._command(), self.printed)
                self.begun.append(life)
                done += self._lived(life, kills - done if self.lives < PATIENCE else 0)
                if self._ended(life, damage):
                    for gone in self.killed:
                        self._looked_after(gone)
                    self._compared()
                    return done
                damage = self._damage()
        finally:
            for life in self.begun:
                life.close()
        self.tally.add("lost", f"run {self.number}: it has not come to its end in {self.lives} lives")
        return done

    def _lived(self, life: Life, kills: int) -> int:
        """Until it has ended. Returns how many signals were delivered."""
        self.last, before = None, self.tally.counts["kills"]
        try:
            self._blows(life, kills)
            life.until(lambda: life.ended, "its end")
        except Hung as error:
            self._fault("hangs", life, str(error))
            life.close()
        return self.tally.counts["kills"] - before

    def _command(self) -> list[str]:
        if (self.folder / "config.yaml").is_file():
            self.tally.counts["resumes"] += 1
            return ["train", f"resume={self.folder}"]
        shutil.rmtree(self.folder, ignore_errors=True)  # killed before it had written anything
        return _begun(self.folder, self.cache, self.exact, self.colocated)

    def _blows(self, life: Life, kills: int) -> None:
        """One after the other, as long as it lives."""
        done, must_go_on = 0, True
        while done < kills:
            blow = draw(self.rng)
            if not blow.await_moment(life, self.folder, self.reference.start_s, self.reference.step_s):
                break
            if not blow.deliver(life, self.rng):
                continue
            done, self.last = done + 1, blow
            self.tally.counts["kills"] += 1
            say(f"[{self.tally.counts['kills']}] run {self.number}, life {self.lives}: {blow}")
            must_go_on = must_go_on and blow.survives
            if blow.settled(life, self.folder) and not life.ended:
                self.tally.counts["survived"] += must_go_on
            elif must_go_on and life.process.returncode:
                self._fault("unclear", life, f"it ended after {blow}, which it has to survive")

    def _ended(self, life: Life, damage: Damage | None) -> bool:
        """Looks at how it ended. Returns whether it has done everything."""
        code, err = life.process.poll(), life.err
        lines = [line for line in err.splitlines() if line.startswith("thinkless: ")]
        number = self.last.number if self.last is not None and self.last.who == "driver" else None
        killed = number == signal.SIGKILL
        unborn = number is not None and code == -number and not err  # before a line of ours had run
        buried = number in (signal.SIGINT, signal.SIGTERM) and code == -number and life.done  # and behind the last one
        if "Traceback" in err:
            self._fault("unclear", life, "a traceback")
        elif code and not (killed or unborn or buried) and len(lines) != 1:
            self._fault("unclear", life, f"exit code {code} and {len(lines)} lines that say why")
        if killed:  # what it has left goes within minutes, and the next life need not wait for it
            self.killed.append(life)
        else:
            self._looked_after(life)
        refused = False
        if damage is not None:
            refused = bool(code) and damage.names_it(lines)
            if refused:
                damage.restore()
            else:
                (self.named if damage.names_it(err.splitlines()) else self.unnamed).add(damage.name)
        behind = buried or any("has finished its" in line for line in lines)  # interrupted behind its last stage
        finished = code == 0 or behind
        if not finished and not killed and self.last is None and not refused:
            self._fault("unclear", life, "it ended though nothing was done to it")
        return finished

    def _looked_after(self, life: Life) -> None:
        if there := life.left():
            self._fault("unclear", life, f"it has left {', '.join(there)[:300]}")

    def _damage(self) -> Damage | None:
        if not (self.folder / "config.yaml").is_file() or self.rng.random() > DAMAGED:
            return None
        if (damage := damaged(self.folder, self.rng)) is not None:
            self.tally.counts["damages"] += 1
            say(f"run {self.number}: {damage}")
        return damage

    def _compared(self) -> None:
        found = compare(self.folder, self.reference.folder, self.exact, STEPS, frozenset(self.named))
        for kind, told in (("lost", found.lost), ("duplicated", found.twice), ("wrong", found.wrong)):
            self.tally.add(kind, *(f"run {self.number}: {line}" for line in told))
        if self.unnamed and (found.lost or found.twice or found.wrong):
            self.tally.add("silent", f"run {self.number}: one of {', '.join(sorted(self.unnamed))}")
        self.tally.counts["runs"] += 1
        shutil.rmtree(self.folder)
        if self.cache != self.reference.cache:
            shutil.rmtree(self.cache, ignore_errors=True)

    def _fault(self, kind: str, life: Life, what: str) -> None:
        after = f" (after {self.last})" if self.last else ""
        self.tally.add(kind, f"run {self.number}, life {self.lives}{after}: {what}; its output: {life.files[1]}")
        say("    " + "\n    ".join(life.err.splitlines()[-8:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="signals to deliver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--out", type=Path, help="folder that keeps what the runs printed; default: none")
    add_small(parser)
    given = parser.parse_args()
    if given.small:
        without_goals()
        given.kills = min(given.kills, SMALL)
    tally = Tally()
    with runs_folder(given.out) as root:
        reference, number = left_alone(root), given.first
        while (left := given.kills - tally.counts["kills"]) > 0:
            Run(root, number, given.seed, reference, tally).through(left)
            number += 1
    for name, unit in COUNTS.items():
        figure(f"chaos_{name}", tally.counts[name], unit)
    for name in FAULTS:
        figure(f"chaos_{name}", tally.counts[name], "faults", 0)
    say("\n".join(tally.told))
    sys.exit(any(tally.counts[name] for name in FAULTS))


if __name__ == "__main__":
    main()
