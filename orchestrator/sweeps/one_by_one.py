"""`warmup` and `evaluate` with --multirun: one member after the other, each in a process of its own.

In: the words of each member. Out: what they print, on stderr; at the end a table of what they measured or made, on
stdout; RunError when one has failed, which takes no other along. Must not know: what the commands do.

A member's own result is kept where the command always writes it, so that there is no sweep's folder; the same command
measures everything again (a warm-up that is finished is taken from its cache).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.flags import Flags
from orchestrator.base import interrupt
from orchestrator.base.errors import RunError
from orchestrator.sweeps.outcome import settings_of
from orchestrator.sweeps.runner import Ended, Process
from orchestrator.sweeps.screen import brief
from orchestrator.tracking.numbers import or_dash, percent

LOOK_S = 0.2  # between two looks at a member
END_S = 60.0  # that it may take to end after a second signal
HEADINGS = ("member", "accuracy", "95 %", "thinks", "tokens")


def run_each(command: str, members: Sequence[list[str]], flags: Flags, options: Sequence[str] = ()) -> None:
    """members: the overrides of each. flags: those of the user's YAML files go to all of them, as options do."""
    rows: list[Sequence[str]] = []
    failed: list[str] = []
    promise = "no further member is started, the one that runs saves what it can and ends"
    with tempfile.TemporaryDirectory(prefix="thinkless-") as scratch, interrupt.saving(promise):
        for number, words in enumerate(members):
            own = [word for word in words if not all(word in other for other in members)]
            name = " ".join(brief([f"{key}={value}" for key, value in settings_of(own).items()]))
            print(f"{number + 1} of {len(members)}: {name}", file=sys.stderr, flush=True)
            log = Path(scratch) / f"{number}.log"
            ended = _watched(Process([command, *options, *flags.words_of_files, *words], log, traceback=False), log)
            if interrupt.requested():
                break
            rows.append((name, *(_figures(log.read_text(errors="replace")) if ended.good else ("failed",))))
            failed += [] if ended.good else [name]
    print("\n".join(_table(rows)), flush=True)
    if failed:
        raise RunError(f"{len(failed)} of {len(members)} failed: {', '.join(failed)}; why is said above")


def _watched(process: Process, log: Path) -> Ended:
    """Prints what it writes until it ends. A signal to this process is passed on, a second one too."""
    told = False
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            while True:
                ended = process.ended()
                sys.stderr.write(file.read())
                sys.stderr.flush()
                if ended:
                    return ended
                if interrupt.requested() and not told:
                    process.stop()
                    told = True
                time.sleep(LOOK_S)
    except interrupt.EndedAtOnce:
        process.stop()
        end = time.monotonic() + END_S
        while process.ended() is None and time.monotonic() < end:
            time.sleep(LOOK_S)
        raise


def _figures(log: str) -> tuple[str, ...]:
    """What an evaluation measured in free mode, or where a warm-up's model is."""
    if found := re.findall(r"^written to (.+)$", log, re.M):
        free: dict[str, Any] = json.loads((Path(found[-1]) / "evaluation.json").read_text())["ways"]["free"]["all"]
        accuracy, thinks, tokens = free["accuracy"] or {}, free["think_rate"] or {}, free["tokens"]["mean"] or {}
        between = f"{accuracy['low']:.3f}..{accuracy['high']:.3f}" if accuracy else "–"
        figures = or_dash("{:.3f}".format)(accuracy.get("value")), or_dash(percent)(thinks.get("value"))
        return figures[0], between, figures[1], or_dash("{:.1f}".format)(tokens.get("value"))
    return tuple(re.findall(r"^the warmed-up model is in (.+)$", log, re.M)[-1:])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    measured = any(len(row) == len(HEADINGS) for row in rows)
    lines = [HEADINGS, *rows] if measured else [*rows]
    full = [row for row in lines if len(row) == len(HEADINGS)]
    first = max((len(row[0]) for row in lines), default=0)
    wide = [max(len(row[at]) for row in full) for at in range(1, len(HEADINGS))] if measured else [0]
    return [
        "  ".join([f"{row[0]:<{first}}", *(f"{cell:>{one}}" for cell, one in zip(row[1:], wide, strict=False))])
        for row in lines
    ]
