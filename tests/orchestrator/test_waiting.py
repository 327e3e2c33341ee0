"""What is printed during a wait."""

from __future__ import annotations

import io
import threading

import pytest

from orchestrator.base import waiting as module
from orchestrator.base.waiting import waiting


class Written(io.StringIO):
    """Tells when a number of lines are there."""

    def __init__(self, terminal: bool = False):
        super().__init__()
        self.terminal, self.enough, self.wanted = terminal, threading.Event(), 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.getvalue().count("it loads") >= self.wanted:
            self.enough.set()
        return count


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "EVERY_S", "REDRAW_S"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "LONG_S", 0.0)
    monkeypatch.setattr(module, "_enabled", True)  # a command called in this process may have silenced it


def test_a_log_repeats_what_is_waited_for() -> None:
    out = Written()
    out.wanted = 3
    with waiting("it loads", out):
        assert out.enough.wait(60)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["it loads", "it loads: 0 s"] and lines[-1] == "it loads: done in 0 s"
    assert "\r" not in out.getvalue()


def test_a_terminal_redraws_one_line() -> None:
    out = Written(terminal=True)
    out.wanted = 2
    with pytest.raises(KeyboardInterrupt), waiting("it loads", out):
        assert out.enough.wait(60)
        raise KeyboardInterrupt
    assert out.getvalue().count("\n") == 1 and out.getvalue().endswith("it loads: stopped after 0 s\n")
    assert out.getvalue().startswith("\r\x1b[Kit loads: 0 s\r")


def test_short_waits_and_disabled_consoles_print_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Written()
    monkeypatch.setattr(module, "FIRST_S", 60.0)
    with waiting("it loads", out):
        pass
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "_enabled", False)
    with waiting("it loads", out):
        assert not out.enough.wait(0.05)
    assert out.getvalue() == ""


def test_of_waits_within_each_other_the_innermost_speaks() -> None:
    outer, inner = Written(), Written()
    inner.wanted = 3
    with waiting("it checks", outer):
        with waiting("it loads", inner):
            assert inner.enough.wait(60)
            assert outer.getvalue().count("it checks") <= 1  # before the other began
        outer.wanted = 0
    assert inner.getvalue().endswith("it loads: done in 0 s\n")


def test_what_is_printed_during_a_wait_begins_on_a_line_of_its_own() -> None:
    out = Written(terminal=True)
    out.wanted = 1
    with waiting("it loads", out) as wait:
        assert out.enough.wait(60)
        wait.clear()
        assert out.getvalue().endswith("\r\x1b[K")
