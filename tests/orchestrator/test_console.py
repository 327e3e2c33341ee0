"""The console on a terminal and off it."""

from __future__ import annotations

import io
import re

import pytest

from orchestrator.tracking.console import (
    COLUMNS,
    Console,
    StreamProgress,
    duration,
    heading,
    key_of,
    modes_between,
    plain_line,
    progress,
    step_line,
)

RECORD = {
    "step": 12,
    "time": 1.0,
    "reward/mean": 0.4123,
    "accuracy/all": 0.94,
    "accuracy/think": 0.98,
    "accuracy/short": None,
    "think_rate/all": 0.52,
    "tokens/mean": 41.23,
    "rollout/tokens_per_s": 1234.4,
    "learner/tokens_per_s": 23456.0,
    "seconds/step": 3.21,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (75.2, "1:15"), (3675, "1:01:15"), (None, "–"), (-1, "0:00")]
)
def test_durations_are_minutes_and_seconds(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_is_one_aligned_line() -> None:
    line = step_line(RECORD, 120, 75.2)
    assert " ".join(line.split()) == "12/120 +0.412 94 % 98 % – 52 % 41.2 1,234 23,456 3.2 s 1:15"
    assert len(line) <= 110 and all(len(row) <= len(line) for row in heading().splitlines())
    assert step_line({}, 120, None).split() == ["–/120"] + ["–"] * 10


def test_every_column_has_a_distinct_name() -> None:
    names = [f"{column[0]} {column[1]}" for column in COLUMNS]
    assert len(set(names)) == len(names) and "right" not in heading()
    assert "accuracy" in heading() and all(column[0] in heading() and column[1] in heading() for column in COLUMNS)


def test_plain_lines_name_every_figure() -> None:
    """No column to count, no spaces to lose; a figure that is missing is left out."""
    line = plain_line(RECORD, 120, 75.2)
    assert line == (
        "step=12/120 reward=+0.412 accuracy=0.940 accuracy_think=0.980 think_rate=0.520 tokens=41.2 "
        "rollout_tokens_per_s=1234 learner_tokens_per_s=23456 step_s=3.2 left=1:15"
    )
    assert plain_line({}, 120, None) == "step=–/120"


def test_a_mode_between_has_columns_of_its_own() -> None:
    three = {
        **RECORD,
        "mode_rate/think": 0.3,
        "mode_rate/medium": 0.22,
        "mode_rate/short": 0.48,
        "accuracy/medium": 0.91,
    }
    assert modes_between(three) == ["medium"] and modes_between(RECORD) == []
    line, (top, below) = step_line(three, 120, 75.2), heading(["medium"]).splitlines()
    assert " ".join(line.split()) == "12/120 +0.412 94 % 98 % 91 % – 52 % 22 % 41.2 1,234 23,456 3.2 s 1:15"
    assert below.split()[:3] == ["think", "medium", "short"] and "share" in top and len(top) <= len(line) <= 130
    plain = plain_line(three, 120, None)
    assert plain.endswith("accuracy_medium=0.910 mode_rate_medium=0.220")
    assert [key_of(name) for name in ("accuracy_medium", "mode_rate_medium", "accuracy_think", "accuracy", "left")] == [
        "accuracy/medium", "mode_rate/medium", "accuracy/think", "accuracy/all", None,
    ]  # fmt: skip


def test_plain_lines_have_no_control_codes(clock: Clock) -> None:
    out = io.StringIO()
    console = Console(20, start_step=11, file=out, clock=clock)
    console.note("warm-up: from the cache")
    for step in (12, 13, 14):
        clock.now += 2.0
        console.step(RECORD | {"step": step})
    console.step({"step": 14, "validation/accuracy": 0.9312, "validation/tokens": 33.0})
    console.close()
    console.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "warm-up: from the cache" and len(lines) == 5
    assert lines[1].startswith("step=12/20 reward=") and lines[1].endswith("left=0:26")  # 8 of 3.21 s: no pace yet
    assert lines[3].endswith("left=0:12")  # 6 steps at 2 s
    assert lines[4] == "step=14/20 validation_accuracy=0.931 validation_tokens=33.0"
    assert not set(out.getvalue()) & {"\r", "\x1b"}


def test_the_estimate_of_the_time_left_is_stable(clock: Clock) -> None:
    """Steps of 2 s, one of 20 s, a validation of 10 s every 10 steps: the estimate stays near what is left."""
    out, total, ends = io.StringIO(), 60, []
    console = Console(total, file=out, clock=clock)
    for step in range(1, total + 1):
        took = 20.0 if step == 23 else 2.0
        clock.now += took
        console.step({"step": step, "seconds/step": took})
        ends.append(clock.now)
        clock.now += 10.0 if step % 10 == 0 else 0.0
    said = [60 * int(minutes) + int(seconds) for minutes, seconds in re.findall(r"left=(\d+):(\d\d)", out.getvalue())]
    assert len(said) == total
    for step in range(11, total - 9):  # once a validation was seen
        left = clock.now - ends[step - 1]
        assert 0.6 * left <= said[step - 1] <= 1.6 * left, (step, said[step - 1], left)
        assert abs(said[step] - said[step - 1]) <= 0.3 * left


def test_a_terminal_has_a_bar_below_the_lines() -> None:
    out = Terminal()
    console = Console(20, file=out)
    console.step(RECORD)
    console.close()
    assert "\r" in out.getvalue() and "12/20 steps" in out.getvalue() and "+0.412" in out.getvalue()
    assert heading() in out.getvalue() and step_line(RECORD, 20, 8 * 3.21) in out.getvalue()
    bare = Terminal()
    console = Console(20, progress=False, file=bare)
    console.step(RECORD)
    console.close()
    assert "\r" not in bare.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    console = Console(20, file=out)
    console.step(RECORD)
    console.close()
    assert not set(out.getvalue()) & {"\r", "\x1b"}


def test_a_disabled_console_prints_nothing() -> None:
    out = Terminal()
    console = Console(20, enabled=False, file=out)
    console.step(RECORD)
    console.note("hello")
    console.close()
    with progress(10, "warm-up", enabled=False, file=out) as bar:
        bar.advance(10)
    assert out.getvalue() == ""


def test_plain_progress_prints_about_ten_lines_and_the_end(clock: Clock) -> None:
    out = io.StringIO()
    with progress(200, "warm-up", file=out, clock=clock) as bar:
        for _ in range(200):
            clock.now += 0.5
            bar.advance(1, loss=0.2314159, tokens_per_s=9000)
    lines = out.getvalue().splitlines()
    assert lines[0] == "warm-up: 1/200, 1:40 left, loss 0.2314 tokens per s 9000"
    assert 10 <= len(lines) <= 13 and lines[-1] == "warm-up: done in 1:40"


def test_an_interrupted_progress_says_where_it_stopped(clock: Clock) -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress(10, "evaluation", file=out, clock=clock) as bar:
        bar.advance(3)
        raise KeyboardInterrupt
    assert out.getvalue().splitlines()[-1] == "evaluation: stopped at 3/10 in 0:00"


def test_progress_on_a_terminal_ends_with_a_line_of_its_own() -> None:
    out = Terminal()
    with progress(4, "evaluation", file=out) as bar:
        bar.advance(4, right=0.5)
    assert "evaluation" in out.getvalue() and out.getvalue().endswith("evaluation: done in 0:00\n")


def test_a_note_stands_above_the_bar_of_a_progress() -> None:
    out, plain = Terminal(), io.StringIO()
    for file in (out, plain):
        with progress(4, "warm-up", file=file) as bar:
            bar.advance(2)
            bar.note("warm-up: evaluation at step 2")
            bar.advance(2)
    noted = out.getvalue().index("warm-up: evaluation at step 2\n")
    assert out.getvalue()[:noted].endswith("\r") and "50 % |" in out.getvalue()[noted:]  # the bar is drawn again
    assert "\nwarm-up: evaluation at step 2\n" in plain.getvalue()
    with progress(4, "warm-up", enabled=False, file=plain) as bar:
        bar.note("not printed")
    assert "not printed" not in plain.getvalue()


def test_a_counter_is_redrawn_at_intervals(clock: Clock) -> None:
    out = Terminal()
    counter = StreamProgress(out, clock)
    for done in range(1, 401):
        clock.now += 1 / 32
        counter.show(done, done // 2)
    counter.close()
    assert "40 lines in 0:01, 32/s, 50.0% correct" in out.getvalue()
    assert out.getvalue().count(" lines in ") == 100 and out.getvalue().endswith("\r")
