"""Runs on one screen of text, for a host without a browser: refreshed on a terminal, written once to anything else.

In: an index of runs, an output. Out: text. Must not know: HTTP.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

from orchestrator.report.figures import drawn_levels
from orchestrator.tracking.numbers import duration, or_dash, percent
from orchestrator.watch.index import Followed, Index
from orchestrator.watch.views import FIGURES, warned
from orchestrator.watch.waits import sentence, step_bar

EVERY_S = 2.0
FOCUSED = 3  # runs that get curves as well; of more, a line each
BLOCKS = " ▁▂▃▄▅▆▇█"
SHARE_MARKS = {"--a": "█", "--b": "▓", "--c": "▒", "--short": "░", "--faint": "·"}
STATES = {"running": 32, "starting": 36, "finished": 0, "interrupted": 33, "died": 31}  # colours of a terminal
HIDE, SHOW, OTHER, BACK, HOME = "\x1b[?25l", "\x1b[?25h", "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"
CLEAR_LINE, CLEAR_REST = "\x1b[K", "\x1b[J"


def follow(index: Index, out: TextIO) -> None:
    """Refresh until Ctrl-C; once, and without colours, where `out` is no terminal."""
    if not out.isatty():
        index.refresh(None)
        out.write("\n".join(screen(index.runs, time.time(), 120, None)) + "\n")
        return
    out.write(OTHER + HIDE)
    try:
        while True:
            share = index.refresh()
            wide, high = shutil.get_terminal_size()
            lines = list(screen(index.runs, time.time(), wide, high - 1, share))
            out.write(HOME + "".join(line + CLEAR_LINE + "\r\n" for line in lines) + CLEAR_REST)
            out.flush()
            time.sleep(0.05 if share < 1 else EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        out.write(SHOW + BACK)
        out.flush()


def screen(runs: list[Followed], now: float, wide: int, high: int | None, share: float = 1.0) -> list[str]:
    """The lines of one screen. high: at most so many, with colours; None: all, without."""
    counts = ", ".join(
        f"{count} {state}" for state in STATES if (count := sum(run.state(now).name == state for run in runs))
    )
    lines = [f"thinkless watch · {counts or 'no run yet'}" + (f" · reading, {percent(share)}" if share < 1 else ""), ""]
    name_wide = max([3, *(len(run.id) for run in runs)])
    name_wide = min(name_wide, max(12, wide // 4))
    labels = "  ".join(f"{label[:10]:>10}" for label, *_ in FIGURES)
    lines.append(f"{'run':<{name_wide}}  {'state':<11} {'step':>11}  {labels}  last step")
    for run in runs:
        state, steps = run.state(now), f"{run.last_step}/{run.steps}" if run.steps else str(run.last_step)
        figures = "  ".join(f"{or_dash(form)(run.lately(key)):>10}" for _, key, form in FIGURES)
        since = "–" if run.last_time is None else f"{duration(max(0.0, now - run.last_time))} ago"
        name = _plain(run.id)[:name_wide]
        painted = _painted(f"{state.name:<11}", STATES[state.name], high is not None)
        lines.append(f"{name:<{name_wide}}  {painted} {steps:>11}  {figures}  {since}")
    for run in runs[:FOCUSED]:
        lines += ["", *_at_length(run, now, wide)]
    if high is not None and len(lines) > high:
        lines = [*lines[: high - 1], f"… {len(lines) - high + 1} more lines: a larger terminal shows them"]
    return [_cut(line, wide) for line in lines]


def _at_length(run: Followed, now: float, wide: int) -> Iterator[str]:
    state = run.state(now)
    yield f"── {_plain(run.id)}: {_plain(state.words)} " + "─" * 8
    if not run.training.count:
        yield "no step has been recorded yet" + (
            f": the warm-up is at step {run.warming.last_step}" if run.warming.count else ""
        )
    bar = step_bar(run)
    if bar is not None:
        room = max(20, min(60, wide - 20))
        cells = "".join(SHARE_MARKS[one.color] * round(one.share * room) for one in bar.shares)
        yield f"a step     {cells}"
        yield "           " + ", ".join(f"{SHARE_MARKS[one.color]} {one.text}" for one in bar.shares)
        yield f"           {sentence(run)}"
    levels = [(f"thinks, {_plain(name)}", f"think_rate/level/{name}") for name in drawn_levels(run)]
    for label, key in [*(levels or [("think rate", "think_rate/all")]), ("accuracy", "accuracy/all")]:
        values = [value for _, value in run.training.curve(key, max(20, min(60, wide - 30))) if value is not None]
        if values:
            yield f"{label[:14]:<14} {sparkline(values)} {percent(values[-1])}"
    for one in warned(run, now):
        yield f"{one.severity.upper()}: {one.text}"


def sparkline(values: list[float]) -> str:
    """Shares as blocks, 0 to 1."""
    return "".join(BLOCKS[max(0, min(8, round(8 * value)))] for value in values)


def _plain(text: str) -> str:
    """Text of a run's folder without control characters, which could drive the terminal."""
    return "".join(character for character in text if character.isprintable())


def _painted(text: str, color: int, colors: bool) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if colors and color else text


def _cut(line: str, wide: int) -> str:
    """At most `wide` characters, colours not counted."""
    if len(re.sub(r"\x1b\[\d+m", "", line)) <= wide:
        return line
    out, seen = "", 0
    for part in re.split(r"(\x1b\[\d+m)", line):
        if part.startswith("\x1b"):
            out += part
        else:
            out, seen = out + part[: max(0, wide - seen)], seen + len(part)
    return out
