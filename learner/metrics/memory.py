"""Peak memory of this process in each phase of an update.

In: a device, phases. Out: GiB by phase: allocated on a GPU, resident on a CPU. Must not know: what phases do.

    memory = PeakMemory(engine.device)
    with memory.of("score"):
        ...
    memory.take() -> {"score": 3.2}
"""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 2**30


class PeakMemory:
    """A phase that is entered several times keeps its peak. Phases do not nest."""

    def __init__(self, device: Any):
        self.device = device  # torch.device
        self.peaks: dict[str, float] = {}

    @contextlib.contextmanager
    def of(self, phase: str) -> Iterator[None]:
        self._reset()
        try:
            yield
        finally:
            self.peaks[phase] = max(self.peaks.get(phase, 0.0), self._peak() / GIB)

    def take(self) -> dict[str, float]:
        """GiB by phase since the last call."""
        taken, self.peaks = self.peaks, {}
        return taken

    def _reset(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_resident_peak()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return resident_peak()


def reset_resident_peak() -> bool:
    """Reset the high-water mark of resident memory; False if the kernel forbids it (it then never falls)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_peak() -> int:
    """Bytes: the highest resident memory since the last reset (or since the process began)."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        found = None
    return 1024 * (int(found.group(1)) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
