"""What a run has become so far, and how its folder compares with that of a run that nobody disturbed.

In: run folders. Out: how far it is; trajectories that were lost or came twice, figures and weights that differ. Must
not know: what was done to it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.line import read
from orchestrator.tracking.catalogue import repeatable


@dataclass
class Faults:
    """Lines that say what, by kind."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def position(folder: Path) -> tuple[Any, ...]:
    """Changes whenever the run gets on."""
    names = ("metrics.jsonl", "provenance.json", "evaluation.json", "report.html", "warmup.json")
    sizes = [path.stat().st_size if (path := folder / name).is_file() else -1 for name in names]
    steps = sorted(path.name for path in (folder / "checkpoints").glob("step_*"))
    return *sizes, *steps, (folder / "model").is_dir()


def recorded(folder: Path) -> int:
    """Steps that stand in metrics.jsonl."""
    return len([row for row in _lines(folder / "metrics.jsonl") if "seconds/step" in row])


def compare(folder: Path, reference: Path, exact: bool, steps: int, but: frozenset[str]) -> Faults:
    """`exact`: bit for bit, as at staleness 0. but: files that were damaged, and named; they are not compared."""
    found = Faults()
    if "metrics.jsonl" not in but:
        _steps(found, folder, reference, exact, steps)
    if "samples.jsonl" not in but:
        _samples(found, folder, reference, exact)
    if exact:
        mine, other = (_weights(one) for one in (folder, reference))
        if mine != other:
            found.wrong.append("the final weights differ")
        if "evaluation.json" not in but:
            mine, other = (_measured(one) for one in (folder, reference))
            if mine != other:
                found.wrong.append("evaluation.json has other figures")
    for name in ("report.html", "config.yaml", "provenance.json"):
        reported = name != "report.html" or "metrics.jsonl" not in but  # or there may be nothing to report
        if not (folder / name).is_file() and reported:
            found.lost.append(f"{name} is not there")
    return found


def _steps(found: Faults, folder: Path, reference: Path, exact: bool, steps: int) -> None:
    mine, other = (_lines(one / "metrics.jsonl") for one in (folder, reference))
    counts = Counter(row["step"] for row in mine if "seconds/step" in row)
    found.lost += [f"step {step} is not in metrics.jsonl" for step in range(1, steps + 1) if not counts[step]]
    found.twice += [f"step {step} is {n} times in metrics.jsonl" for step, n in counts.items() if n > 1]
    answers = [[(row["step"], _answers(row)) for row in one if "seconds/step" in row] for one in (mine, other)]
    found.wrong += [f"step {step}: {n} answers" for step, n in answers[0] if n != dict(answers[1]).get(step)]
    if exact:
        rows = [[{key: row[key] for key in sorted(row) if repeatable(key)} for row in one] for one in (mine, other)]
        for one, same in zip(*rows, strict=False):
            if json.dumps(one) != json.dumps(same):  # as text: NaN equals itself
                keys = [key for key in {*one, *same} if json.dumps(one.get(key)) != json.dumps(same.get(key))]
                found.wrong.append(f"metrics.jsonl, step {one['step']}: {', '.join(sorted(keys)[:5])} differ")
        if len(mine) != len(other):
            found.wrong.append(f"metrics.jsonl has {len(mine)} lines instead of {len(other)}")


def _answers(row: dict[str, Any]) -> int:
    return sum(value for key, value in row.items() if key.startswith("answers/"))


def _samples(found: Faults, folder: Path, reference: Path, exact: bool) -> None:
    """An answer to each prompt of each step is there: which prompts were sampled does not depend on staleness. Of a
    prompt that was answered in both modes two are written."""
    mine, other = (_lines(one / "samples.jsonl") for one in (folder, reference))
    have, due = ({(row["step"], row["uid"]) for row in rows if row["step"]} for rows in (mine, other))
    found.lost += [f"step {step}: no answer to {uid}" for step, uid in sorted(due - have)]
    found.twice += [f"step {step}: an answer to {uid}, which is another step's" for step, uid in sorted(have - due)]
    if exact and have == due and mine != other:
        found.wrong.append("samples.jsonl has other answers")


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those that are as they were written."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):  # half of it is there, or it was damaged: it is missed where it has to be
            rows.append(read(line))
    return rows


def _weights(folder: Path) -> bytes:
    path = folder / "model" / "model.safetensors"
    return path.read_bytes() if path.is_file() else b""


def _measured(folder: Path) -> Any:
    path = folder / "evaluation.json"
    return json.loads(path.read_text())["models"] if path.is_file() else None
