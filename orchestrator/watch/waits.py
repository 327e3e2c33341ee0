"""Who waits for whom, lately: what a step's time went to, and what each kind of actor did with it.

In: a followed run; the end of its timeline. Out: bars of shares, one sentence. Must not know: how they are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.report.gantt import COLORS, OTHER, spent, table
from orchestrator.tracking.chrome_trace import Recorded, parsed
from orchestrator.tracking.numbers import percent
from orchestrator.tracking.utilization import TITLES, WORK, headline
from orchestrator.watch.index import LATELY, Followed

TAIL = 1 << 20  # bytes at a timeline's end that are read: some tens of steps
HEAD = 1 << 14  # and at its beginning, where its actors are named
PARTS = (  # of a step, as the driver saw it
    ("waiting for answers", "seconds/rollout", "--a"),
    ("waiting for verdicts", "seconds/reward", "--b"),
    ("waiting for the learner", "seconds/learner", "--c"),
    ("waiting for the weight push", "weight_sync/seconds", "--short"),
)
KINDS = {"rollout": "samplers", "reward": "graders", "learner": "learner"}


@dataclass(frozen=True, slots=True)
class Share:
    name: str
    share: float
    color: str  # a CSS variable; "" for idle

    @property
    def amount(self) -> str:
        return percent(self.share)

    @property
    def text(self) -> str:
        return f"{self.name} {self.amount}"


@dataclass(frozen=True, slots=True)
class Bar:
    title: str
    shares: list[Share]  # they add up to about 1


def legend(bars: Iterable[Bar]) -> list[tuple[str, str]]:
    """(names, colour) of all shares but idle. A wait of the driver's has the colour of what it waits for."""
    named: dict[str, dict[str, None]] = {}
    for share in (share for bar in bars for share in bar.shares if share.color):
        named.setdefault(share.color, {})[share.name] = None
    return [(", ".join(names), color) for color, names in named.items()]


def step_bar(run: Followed) -> Bar | None:
    """What the last steps' time went to, from the run's figures; None before the first step."""
    whole = run.lately("seconds/step")
    if not whole:
        return None
    spent = [(name, run.lately(key) or 0.0, color) for name, key, color in PARTS]
    shares = [Share(name, min(1.0, seconds / whole), color) for name, seconds, color in spent if seconds > 0]
    rest = max(0.0, 1.0 - sum(share.share for share in shares))
    return Bar("a step", [*shares, Share("other", rest, OTHER)] if rest > 0.005 else shares)


def sentence(run: Followed) -> str:
    """The main wait in words, and who worked for how much of the time."""
    bar = step_bar(run)
    if bar is None:
        return ""
    most = max(bar.shares, key=lambda share: share.share)
    said = f"Of the last {LATELY} steps’ time, {percent(most.share)} went to {most.name}"
    worked = headline({f"busy/{kind}": run.lately(f"busy/{kind}") for kind in WORK})
    return f"{said}; {worked}." if worked else f"{said}."


def lately(run: Followed) -> list[Bar]:
    """Those of `actor_bars` for a run's last steps; worked out again when its timeline has grown."""
    path = run.folder / "timeline.json"
    try:
        found = path.stat()
    except OSError:
        return []
    stamp = (found.st_mtime_ns, found.st_size)
    if run.bars[0] != stamp:
        recorded = end_of_timeline(path)
        run.bars = (stamp, actor_bars(recorded, LATELY) if recorded else [])
    return run.bars[1]


def actor_bars(recorded: Recorded, steps: int) -> list[Bar]:
    """A bar for each kind of actor over the last steps of a timeline: the mean of its actors."""
    last = Recorded(recorded.spans, recorded.steps[-steps:])
    shown = table(last, *spent(last))
    bars = []
    for kind, title in KINDS.items():
        rows = [row["cells"] for row in shown["rows"] if row["name"].startswith(TITLES[kind])]
        if not rows:
            continue
        means = [sum(cell or 0.0 for cell in cells) / len(rows) for cells in zip(*rows, strict=True)]
        named = zip(shown["kinds"], means, strict=True)
        shares = [
            Share(name, mean, "" if name == "idle" else COLORS.get(name, OTHER)) for name, mean in named if mean > 0
        ]
        bars.append(Bar(title, shares))
    return bars


def end_of_timeline(path: Path) -> Recorded | None:
    """The last steps of a timeline, with all actors that its beginning names; None where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - TAIL)
            file.seek(0)
            head = file.read(min(HEAD, start))
            file.seek(start)
            tail = file.read(TAIL)
    except FileNotFoundError:
        return None
    named = [line for line in head.splitlines() if b'"ph":"M"' in line]
    lines = tail.splitlines()
    return parsed(line.decode(errors="replace") for line in [*named, *(lines[1:] if start else lines)])
