"""Runs on one screen of text, for a host without a browser: refreshed on a terminal, written once to anything else.

In: an index of runs, an output. Out: text. Must not know: HTTP.
"""

from __future__ import annotations

import os
import re
import signal
import textwrap
import time
from collections.abc import Iterator
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

from orchestrator.report.figures import drawn_levels
from orchestrator.report.gantt import OTHER
from orchestrator.tracking.numbers import duration, or_dash, percent
from orchestrator.watch.index import Followed, Index
from orchestrator.watch.views import FIGURES, warned
from orchestrator.watch.waits import sentence, step_bar

EVERY_S = 2.0
LOOK_S = 0.1  # between two looks at the terminal's size
FOCUSED = 3  # runs that get curves as well; of more, a line each
INDENT = 11  # of what belongs to the line above
BLOCKS = " ▁▂▃▄▅▆▇█"
SHARE_MARKS = {"--a": "█", "--b": "▓", "--c": "▒", "--short": "░", OTHER: "·"}
STATES = {"running": 32, "starting": 36, "finished": 0, "interrupted": 33, "died": 31}  # colours of a terminal
HIDE, SHOW, OTHER_SCREEN, BACK, HOME = "\x1b[?25l", "\x1b[?25h", "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"
CLEAR_LINE, CLEAR_BELOW = "\x1b[2K", "\x1b[J"


def follow(index: Index, out: TextIO) -> None:
    """Refresh until Ctrl-C (or SIGTERM, which ends the command); once, and without colours, where `out` is no terminal.

    However it ends, the terminal is as it was.
    """
    if isinstance(out, TextIOWrapper):
        out.reconfigure(errors="replace")  # a terminal that is not UTF-8
    if not out.isatty():
        index.refresh(None)
        out.write("\n".join(screen(index.runs, time.time(), 120, None)) + "\n")
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        out.write(OTHER_SCREEN + HIDE)
        while True:
            share, size = index.refresh(), _size(out)
            lines = screen(index.runs, time.time(), size.columns, size.lines, share)
            # cleared first: behind a line that fills its row, the cursor is still on its last character
            out.write(HOME + "\r\n".join(CLEAR_LINE + line for line in lines) + CLEAR_BELOW)
            out.flush()
            _pause(0.05 if share < 1 else EVERY_S, out, size)
    except KeyboardInterrupt:
        pass
    finally:
        out.write(SHOW + BACK)
        out.flush()
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _size(out: TextIO) -> os.terminal_size:
    size = os.get_terminal_size(out.fileno())
    return size if size.columns and size.lines else os.terminal_size((80, 24))  # a terminal that does not know


def _pause(seconds: float, out: TextIO, size: os.terminal_size) -> None:
    """Until then, or until the terminal has another size."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and _size(out) == size:
        time.sleep(min(LOOK_S, left))


def screen(runs: list[Followed], now: float, wide: int, high: int | None, share: float = 1.0) -> list[str]:
    """The lines of one screen. high: at most so many, with colours; None: all, without."""
    counts = ", ".join(
        f"{count} {state}" for state in STATES if (count := sum(run.state(now).name == state for run in runs))
    )
    lines = [f"thinkless watch · {counts or 'no run yet'}" + (f" · reading, {percent(share)}" if share < 1 else ""), ""]
    name_wide = max([3, *(len(run.id) for run in runs)])
    name_wide = min(name_wide, max(12, wide // 4))
    fit = max(1, (wide - name_wide - 40) // 12)  # figures that have room
    labels = "".join(f"  {label[:10]:>10}" for label, *_ in FIGURES[:fit])
    lines.append(f"{'run':<{name_wide}}  {'state':<11} {'step':>11}  {'last step':>11}{labels}")
    for run in runs:
        state, steps = run.state(now), f"{run.last_step}/{run.steps}" if run.steps else str(run.last_step)
        figures = "".join(f"  {or_dash(form)(run.lately(key)):>10}" for _, key, form in FIGURES[:fit])
        since = "–" if run.last_time is None else f"{duration(max(0.0, now - run.last_time))} ago"
        name = _plain(run.id)[:name_wide]
        painted = _painted(f"{state.name:<11}", STATES[state.name], high is not None)
        lines.append(f"{name:<{name_wide}}  {painted} {steps:>11}  {since:>11}{figures}")
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
        yield from _wrapped(", ".join(f"{SHARE_MARKS[one.color]} {one.text}" for one in bar.shares), wide, INDENT)
        yield from _wrapped(sentence(run), wide, INDENT)
    levels = [(f"thinks, {_plain(name)}", f"think_rate/level/{name}") for name in drawn_levels(run)]
    for label, key in [*(levels or [("think rate", "think_rate/all")]), ("accuracy", "accuracy/all")]:
        values = [value for _, value in run.training.curve(key, max(20, min(60, wide - 30))) if value is not None]
        if values:
            yield f"{label[:14]:<14} {sparkline(values)} {percent(values[-1])}"
    for one in warned(run, now):
        yield from _wrapped(f"{one.severity.upper()}: {one.text}", wide)
        yield from _wrapped(one.rule.action, wide, INDENT)


def sparkline(values: list[float]) -> str:
    """Shares as blocks, 0 to 1."""
    return "".join(BLOCKS[max(0, min(8, round(8 * value)))] for value in values)


def _wrapped(text: str, wide: int, indent: int = 0) -> list[str]:
    space = " " * indent
    whole = text.replace(" %", "\u00a0%")
    lines = textwrap.wrap(whole, max(20, wide), initial_indent=space, subsequent_indent=space)
    return [line.replace("\u00a0", " ") for line in lines]


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
