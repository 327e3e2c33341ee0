"""Random damage to run folders: is it named, or harmless? Run: python benchmarks/damage.py --damages 1000 --seed 0

A run folder with every file that a run, its evaluation and its sweep leave is copied, one of its files is damaged (a
flipped bit, a changed digit, a cut, zeros, a lost line ...: benchmarks/_damage/kinds.py), and every command that reads
that file (in every tenth case every command, so that nothing depends on the list of who reads what) is given it, on a
copy each, as far as it goes without Ray. What it shows and leaves is compared with what it makes of the intact folder.

    damage_harmless      everything is as with the intact folder
    damage_named         something differs, and every command where it does has named the file, or ended with one line
                         that does
    damage_silent        a command's outcome differs without a word
    damage_tracebacks    an error that is no line of ours, or names nothing
    damage_hangs         more than 5 s of processor time

Case n of a seed is the same whatever the number of cases. The small form tries 22. Exits with 1 when any is silent, a
traceback or a hang.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._damage.commands import COMMANDS, OURS, without_ray
from benchmarks._damage.folder import CHECKPOINT, FILES, MINE, build
from benchmarks._damage.kinds import KINDS, damage
from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from benchmarks._fuzz.children import Outcome, outcomes
from conf.schema import ModelConf, RandomModelConf
from learner.model.prepare_model import random_model

LOCK = ".lock"  # counts by being held, not by its text
DAMAGED = (*(name for name in FILES if name != LOCK), *CHECKPOINT)
EVERY = 10  # case is given to all commands
Case = tuple[int, str, str]  # number, file, kind
Read = tuple[str, str, str]  # what a command made of the folder, what it said meanwhile, the line that it ended with


def case(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed} {number}")
    return number, rng.choice(DAMAGED), rng.choice(KINDS)


def read(command: str, whole: Path, case: Case | None, seed: int) -> Read:
    """What the command makes of a copy, damaged or not. Whatever is no line of ours is raised."""
    runs = whole.parent / f"of-{os.getpid():07d}" / "runs"
    shutil.copytree(whole, runs, symlinks=True)
    ended = ""
    try:
        if case is not None:
            number, name, kind = case
            damage(runs / MINE / name, kind, random.Random(f"{seed} {number} {name} {kind}"))
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                made = COMMANDS[command][0](runs / MINE)
            except OURS as error:
                made, ended = "", str(error)
        where = str(runs)
        return made.replace(where, "RUNS"), (err.getvalue() + out.getvalue()).replace(where, "RUNS"), ended
    finally:
        shutil.rmtree(runs.parent)


def attempt(whole: Path, intact: dict[str, Read], seed: int, case: Case) -> Outcome:
    """Give it to the commands."""
    number, name, _ = case
    file, worst = Path(name).name, Outcome("harmless")
    for command, (usual, _, _) in intact.items():
        if name not in COMMANDS[command][1] and number % EVERY:
            continue
        try:
            made, said, ended = read(command, whole, case, seed)
        except Exception:
            return Outcome("traceback", f"{command}: {traceback.format_exc()}")
        if ended and ("\n" in ended or (file not in ended and MINE not in ended)):
            return Outcome("traceback", f"{command} ended with: {ended}")
        if ended:
            worst = Outcome("named", ended)
        elif made != usual:
            if file not in said and made.count(file) <= usual.count(file):
                return Outcome("silent", f"{command}: {_difference(usual, made)}")
            worst = Outcome("named", said)
    return worst


def _difference(usual: str, made: str) -> str:
    """The first lines that differ."""
    one, other = usual.splitlines(), made.splitlines()
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return " -> ".join((lines[at : at + 1] or ["nothing"])[0][:300] for lines in (one, other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    add_small(parser)
    given = parser.parse_args()
    if given.small:
        without_goals()
        given.damages = 22
    figures_only()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch, without_ray():
        whole = Path(scratch) / "whole"
        build(whole, Path(random_model(Path(scratch) / "model", RandomModelConf(), ModelConf(), seed=0)))
        intact = {command: read(command, whole, None, given.seed) for command in COMMANDS}
        again = {command: read(command, whole, None, given.seed) for command in COMMANDS}
        for command, (made, said, ended) in intact.items():
            assert not ended and "damaged" not in said, (command, said, ended)
            assert made == again[command][0], f"{command} tells: {_difference(made, again[command][0])}"
        cases = [case(given.seed, number) for number in range(given.first, given.first + given.damages)]
        trial = functools.partial(attempt, whole, intact, given.seed)
        for one, outcome in outcomes(trial, cases, given.processes, hang_s=5.0 * len(COMMANDS)):
            counts[outcome.kind] += 1
            if outcome.kind not in ("harmless", "named"):
                say(f"{outcome.kind}: {one}\n    {outcome.text.strip()}")
    figure("damage_harmless", counts["harmless"], "damages")
    figure("damage_named", counts["named"], "damages")
    figure("damage_silent", counts["silent"], "damages", 0)
    figure("damage_tracebacks", counts["traceback"] + counts["died"], "damages", 0)
    figure("damage_hangs", counts["hang"], "damages", 0)
    sys.exit(any(counts[kind] for kind in ("silent", "traceback", "died", "hang")))


if __name__ == "__main__":
    main()
