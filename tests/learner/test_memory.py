"""Peak memory by phase: resident memory on a CPU, and what happens where its mark cannot be reset."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from learner.metrics import memory
from learner.metrics.memory import GIB, PeakMemory, resident_peak

MIB = 2**20


def use(mib: int) -> None:
    """Fresh pages, not what the allocator keeps from earlier tests."""
    with mmap.mmap(-1, mib * MIB) as pages:
        for at in range(0, mib * MIB, 4096):
            pages[at] = 1


def test_each_phase_has_its_own_peak() -> None:
    """Freed memory of an earlier phase does not count; the highest of several entries does."""
    if not memory.reset_resident_peak():
        pytest.skip("this kernel does not let processes reset their high-water mark")
    found, base = PeakMemory(torch.device("cpu")), psutil.Process().memory_info().rss / GIB
    with found.of("large"):
        use(200)
    for size in (20, 80, 10):
        with found.of("small"):
            use(size)
    peaks = found.take()
    assert list(peaks) == ["large", "small"]
    assert peaks["large"] - base == pytest.approx(200 / 1024, abs=0.04)
    assert peaks["small"] - base == pytest.approx(80 / 1024, abs=0.04)
    assert found.take() == {}


def test_a_phase_that_fails_is_measured() -> None:
    found = PeakMemory(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), found.of("bad"):
        _ = 1 / 0
    assert found.take()["bad"] > 0


def test_without_a_resettable_high_water_mark_the_overall_peak_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> Any:
        raise PermissionError(self)

    monkeypatch.setattr(Path, "write_text", refuse)
    before, found = resident_peak(), PeakMemory(torch.device("cpu"))
    with found.of("phase"):
        use(1)
    assert found.take()["phase"] >= before / GIB


def test_without_proc_the_resource_usage_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, *_: Any) -> Any:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert resident_peak() > 10 * MIB
