"""What a person watches: an aligned line per step above a progress bar on a terminal; elsewhere (log files, Ray's
dashboard, CI) a line of key=value per step, which survives collapsed spaces, and no control codes.

In: a step's figures (the objects of metrics.jsonl). Out: lines on stderr.
Must not know: files, Ray, where the figures come from.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TextIO

from tqdm import tqdm

from orchestrator.base.waiting import EVERY_S, REDRAW_S, Ticker, is_terminal
from orchestrator.tracking.failures import Failures, in_words

Column = tuple[str, str, str, str, int, int]
COLUMNS: tuple[Column, ...] = (  # heading, its second line, key in the record, format, factor, width
    ("reward", "", "reward/mean", "{:+.3f}", 1, 8),
    ("accuracy", "", "accuracy/all", "{:.0f} %", 100, 10),
    ("acc.", "think", "accuracy/think", "{:.0f} %", 100, 7),
    ("acc.", "short", "accuracy/short", "{:.0f} %", 100, 7),
    ("thinks", "", "think_rate/all", "{:.0f} %", 100, 8),
    ("tokens", "/answer", "tokens/mean", "{:,.1f}", 1, 9),
    ("rollout", "tokens/s", "rollout/tokens_per_s", "{:,.0f}", 1, 10),
    ("learner", "tokens/s", "learner/tokens_per_s", "{:,.0f}", 1, 10),
    ("time", "/step", "seconds/step", "{:.1f} s", 1, 8),
)
PLAIN = (  # the same off a terminal: name, key in the record, format
    ("reward", "reward/mean", "{:+.3f}"),
    ("accuracy", "accuracy/all", "{:.3f}"),
    ("accuracy_think", "accuracy/think", "{:.3f}"),
    ("accuracy_short", "accuracy/short", "{:.3f}"),
    ("think_rate", "think_rate/all", "{:.3f}"),
    ("tokens", "tokens/mean", "{:.1f}"),
    ("rollout_tokens_per_s", "rollout/tokens_per_s", "{:.0f}"),
    ("learner_tokens_per_s", "learner/tokens_per_s", "{:.0f}"),
    ("step_s", "seconds/step", "{:.1f}"),
    ("validation_reward", "validation/reward", "{:+.3f}"),
    ("validation_accuracy", "validation/accuracy", "{:.3f}"),
    ("validation_think_rate", "validation/think_rate", "{:.3f}"),
    ("validation_tokens", "validation/tokens", "{:.1f}"),
)
PLAIN_KEYS = {name: key for name, key, _ in PLAIN}
BETWEEN = ("accuracy", "mode_rate")  # of each mode between think and short, where a record has them
STEP_WIDTH, LEFT_WIDTH = 10, 8
HEADING_EVERY = 25  # lines
PACE_OVER = 20  # steps whose median gives the time left
PLAIN_EVERY = 0.1  # share of a plain progress between two of its lines


def duration(seconds: float | None) -> str:
    """Example: 75.2 -> "1:15", 3675 -> "1:01:15"."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_of(text: str) -> float | None:
    """`duration` reversed. Example: "1:15" -> 75.0."""
    parts = [float(part) for part in text.split(":")] if text != "–" else []
    return sum(part * 60**power for power, part in enumerate(reversed(parts))) if parts else None


def modes_between(record: Mapping[str, Any]) -> list[str]:
    """Those between think and short, of a step of a run with more than two modes."""
    names = (key.removeprefix("mode_rate/") for key in record if key.startswith("mode_rate/"))
    return [name for name in names if name not in ("think", "short")]


def columns(between: Sequence[str] = ()) -> list[Column]:
    """`COLUMNS`, with two for each mode between think and short."""
    found: list[Column] = []
    for column in COLUMNS:
        found.append(column)
        if column[2] == "accuracy/think":
            found += [("acc.", name, f"accuracy/{name}", "{:.0f} %", 100, max(7, len(name) + 2)) for name in between]
        if column[2] == "think_rate/all":
            found += [("share", name, f"mode_rate/{name}", "{:.0f} %", 100, max(7, len(name) + 2)) for name in between]
    return found


def heading(between: Sequence[str] = ()) -> str:
    """Two lines that name the columns of `step_line`, for a record with these modes between think and short."""
    chosen = columns(between)
    rows = (("step", *(column[0] for column in chosen), "left"), ("", *(column[1] for column in chosen), ""))
    return "\n".join(_aligned(row, chosen).rstrip() for row in rows)


def step_line(record: Mapping[str, Any], total_steps: int, left_s: float | None) -> str:
    """One step, aligned under `heading`; a dash where a figure is missing."""
    chosen = columns(modes_between(record))
    cells = (_cell(record.get(key), form, factor) for _, _, key, form, factor, _ in chosen)
    return _aligned((f"{record.get('step', '–')}/{total_steps}", *cells, duration(left_s)), chosen)


def plain_line(record: Mapping[str, Any], total_steps: int, left_s: float | None) -> str:
    """The figures that are there, step or validation. Example: "step=12/120 reward=+0.310 accuracy=0.870 left=1:15"."""
    words = [f"step={record.get('step', '–')}/{total_steps}"]
    more = ((f"{kind}_{name}", f"{kind}/{name}", "{:.3f}") for name in modes_between(record) for kind in BETWEEN)
    words += [
        f"{name}={form.format(record[key])}"
        for name, key, form in (*PLAIN, *more)
        if isinstance(record.get(key), (int, float))
    ]
    return " ".join([*words, f"left={duration(left_s)}"] if left_s is not None else words)


def key_of(name: str) -> str | None:
    """The key in a record of a figure's name in `plain_line`; None for any other word."""
    kind = next((kind for kind in BETWEEN if name.startswith(f"{kind}_")), None)
    return PLAIN_KEYS.get(name) or (f"{kind}/{name.removeprefix(f'{kind}_')}" if kind else None)


def validation_line(record: Mapping[str, Any]) -> str | None:
    """The validation in a record, when there is one."""
    parts = (
        ("{:.1f} % right", "validation/accuracy", 100),
        ("reward {:+.3f}", "validation/reward", 1),
        ("thinks {:.0f} %", "validation/think_rate", 100),
        ("{:.1f} tokens/answer", "validation/tokens", 1),
    )
    known = [form.format(factor * record[key]) for form, key, factor in parts if record.get(key) is not None]
    return f"validation at step {record.get('step', '–')}: {', '.join(known)}" if known else None


def _cell(value: Any, form: str, factor: float) -> str:
    return form.format(factor * value) if isinstance(value, (int, float)) else "–"


def _aligned(cells: tuple[str, ...], chosen: Sequence[Column]) -> str:
    widths = (STEP_WIDTH, *(column[-1] for column in chosen), LEFT_WIDTH)
    return "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _bar(total: int, done: int, file: TextIO, form: str, **more: Any) -> tqdm[Any]:
    """A bar that disappears at its end. more: further arguments of tqdm."""
    return tqdm(total=total, initial=done, file=file, bar_format=form, dynamic_ncols=True, leave=False, **more)


class Console:
    """One line per step. `enabled=False` prints nothing at all; `progress=False` leaves out the bar."""

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        enabled: bool = True,
        progress: bool = True,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        elsewhere: bool = False,
    ) -> None:
        """elsewhere: the steps are another process's, whose log is shown: how long it has run is not known here."""
        self.total_steps = total_steps
        self._file = file or sys.stderr
        self._enabled = enabled
        self._clock = clock
        self._took: deque[float] = deque(maxlen=PACE_OVER)  # seconds of the last steps
        self._ended: float | None = None  # when the last step did
        self._between, self._gaps = 0.0, 0  # seconds between steps, and how often
        self._lines = 0
        self.failures = Failures("console")
        self._bar: tqdm[Any] | None = None
        self._table = is_terminal(self._file)
        if enabled and progress and self._table:
            gone = "" if elsewhere else ", {elapsed} gone"
            form = f"{{percentage:3.0f}} % |{{bar}}| {{n_fmt}}/{{total_fmt}} steps{gone}{{postfix}}"
            self._bar = _bar(total_steps, start_step, self._file, form)

    def step(self, record: Mapping[str, Any], left_s: float | None = None) -> None:
        """Show a finished step, and its validation if it holds one; a record that holds nothing else is no step.

        left_s: seconds to the last step, where the process that trains has told them.
        """
        trained = any(key != "step" and key != "time" and not key.startswith("validation/") for key in record)
        left = (self._left(record) if left_s is None else left_s) if trained else None
        with self._counted():
            self._show(record, trained, left)

    def _show(self, record: Mapping[str, Any], trained: bool, left: float | None) -> None:
        if not self._table:
            self.note(plain_line(record, self.total_steps, left))
            return
        if trained:
            if self._lines % HEADING_EVERY == 0:
                self.note(heading(modes_between(record)))
            self._lines += 1
            self.note(step_line(record, self.total_steps, left))
            if self._bar is not None:
                self._bar.n = int(record.get("step", self._bar.n + 1))
                self._bar.set_postfix_str(f"{duration(left)} left")
        if (line := validation_line(record)) is not None:
            self.note(line)

    def note(self, text: str) -> None:
        """Print text above the bar."""
        if not self._enabled:
            return
        with self._counted():
            if self._bar is not None:
                self._bar.write(text, file=self._file)
            else:
                print(text, file=self._file, flush=True)

    def close(self) -> None:
        """Remove the bar; the lines stay."""
        if self._bar is not None:
            with self._counted():
                self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """A terminal that is gone, or a log on a full disk, ends no run."""
        try:
            yield
        except OSError as error:
            self.failures.add(f"lines could not be printed ({in_words(error)}): training goes on")

    def _left(self, record: Mapping[str, Any]) -> float | None:
        """Seconds to the last step: a recent step's median, and all that came between steps (validations, checks,
        checkpoints) as its average over the run so far, since it comes rarely and much at a time."""
        now, took = self._clock(), record.get("seconds/step")
        if took is None:
            return None
        if self._ended is not None:
            took = min(took, now - self._ended)
            self._between += now - self._ended - took
            self._gaps += 1
        self._took.append(took)
        self._ended = now
        pace = statistics.median(self._took) + (self._between / self._gaps if self._gaps else 0.0)
        return pace * (self.total_steps - int(record.get("step", 0)))


class StreamProgress:
    """A bar for a stream whose length nobody knows: lines done, their rate, the share that is correct."""

    EVERY_S = 0.1  # between two drawings

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._drawn = clock()
        self._bar: tqdm[Any] = tqdm(file=file or sys.stderr, bar_format="{desc}", dynamic_ncols=True, leave=False)

    def show(self, done: int, correct: int) -> None:
        """Cheap enough to be called for every line."""
        if (now := self._clock()) - self._drawn >= self.EVERY_S:
            self._drawn, spent = now, now - self._start
            share = f", {correct / done:.1%} correct" if done else ""
            self._bar.set_description_str(f"{done:,} lines in {duration(spent)}, {done / spent:,.0f}/s{share}")

    def close(self) -> None:
        self._bar.close()


class progress:
    """A bar for a part whose length is known (warm-up, evaluation); off a terminal a line every tenth of it, and every
    ten seconds.

    with progress(1800, "warm-up") as bar:
        bar.advance(1, loss=0.231)
    """

    def __init__(
        self,
        total: int,
        label: str,
        enabled: bool = True,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: int = 0,
    ) -> None:
        """start: what was done before."""
        self.total, self.label, self.start, self.done = total, label, start, start
        self._file = file or sys.stderr
        self._enabled = enabled
        self._clock = clock
        self._start = self._said = clock()
        self._next = 0.0  # share from which the next plain line is due
        self._ticker: Ticker | None = None
        self._bar: tqdm[Any] | None = None
        if enabled and is_terminal(self._file):
            form = "{desc} {percentage:3.0f} % |{bar}| {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}"
            self._bar = _bar(total, start, self._file, form, desc=label, delay=1e-9)

    def __enter__(self) -> Self:
        if self._enabled:
            every = EVERY_S if self._bar is None else REDRAW_S
            self._ticker = Ticker(self._still, every, every)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        if self._bar is not None:
            self._bar.close()
        if self._enabled:
            end = "done" if kind is None else f"stopped at {self.done}/{self.total}"
            line = f"{self.label}: {end} in {duration(self._clock() - self._start)}"
            with contextlib.suppress(OSError):  # nobody can read it
                tqdm.write(line, file=self._file)  # above another bar, when there is one
                self._file.flush()

    def advance(self, n: int = 1, **figures: float) -> None:
        """n more of `total` are done; figures (loss=0.231) are shown beside."""
        self.done += n
        shown = " ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(n)
        elif self._enabled and self.done >= self._next * self.total:
            self._say(shown)
            while self.done >= self._next * self.total and self._next <= 1:
                self._next += PLAIN_EVERY

    def note(self, text: str) -> None:
        """Print text above the bar."""
        if self._enabled:
            with contextlib.suppress(OSError):  # nobody can read it
                tqdm.write(text, file=self._file)
                self._file.flush()

    def _still(self) -> None:
        """Called from another thread: nothing may have advanced for a while."""
        if self._bar is not None:
            self._bar.refresh()
        elif self._clock() - self._said > EVERY_S / 2:
            self._say(f"{duration(self._clock() - self._start)} gone")

    def _say(self, more: str) -> None:
        self._said = self._clock()
        new = self.done - self.start
        left = (self._said - self._start) * max(self.total - self.done, 0) / new if new else None
        line = f"{self.label}: {self.done}/{self.total}, {duration(left)} left"
        with contextlib.suppress(OSError):  # nobody can read it
            print(f"{line}, {more}" if more else line, file=self._file, flush=True)
