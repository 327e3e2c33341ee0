"""Damage to a file of a run folder that nobody writes to.

In: a run folder, a random generator. Out: what was damaged, whether a line names it, its restoration. Must not know:
what a run makes of it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._damage.kinds import KINDS, damage

FILES = ("config.yaml", "provenance.json", "metrics.jsonl", "samples.jsonl", "timeline.json", "evaluation.json")


@dataclass(frozen=True, slots=True)
class Damage:
    folder: Path
    name: str  # of the file, in the folder
    kind: str
    before: bytes

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def names_it(self, lines: Iterable[str]) -> bool:
        """A checkpoint may be named by its step alone."""
        path = Path(self.name)
        words = {path.name} if len(path.parts) == 1 else {path.parts[1], f"step {int(path.parts[1][5:])}:"}
        return any(word in line for line in lines for word in words)

    def restore(self) -> None:
        path = self.folder / self.name
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(self.before)


def damaged(folder: Path, rng: random.Random) -> Damage | None:
    """One of its files or of its checkpoints' files, the newest one's more often; None: there is nothing to damage."""
    texts = [folder / name for name in FILES]
    states = sorted(path for path in folder.glob("checkpoints/step_*/**/*") if path.is_file())
    found = [path for path in (*texts, *states, *states[-6:]) if path.is_file()]
    if not found:
        return None
    path = rng.choice(found)
    one = Damage(folder, str(path.relative_to(folder)), rng.choice(KINDS), path.read_bytes())
    damage(path, one.kind, rng)
    return one
