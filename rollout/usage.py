"""What a rollout worker's vLLM engine does: how much it runs, how full its cache is, how often it put answers back.

In: vLLM's scheduler (`UsageWatch`), its state after every engine step (`UsageLog`). Out: `WorkerStatus`, for whoever
asks now and then. Must not know: prompts, weights' contents, who asks.

vLLM's own statistics (`disable_log_stats=False`) cost time at every step; these are read from the scheduler instead.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from conf.choices import Device

GIB = 2**30
PAGE = 4096  # bytes


class Usage(NamedTuple):
    """Of an engine, now."""

    running: int  # sequences
    waiting: int  # sequences that it was given and does not run
    cache: float  # share of the key-value cache in use
    preemptions: int  # so far
    received: int  # bytes of weights so far


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Of a rollout worker since it was last asked; means are over its engine's steps, None if it made none."""

    born: float  # seconds since the epoch; another value: the worker was restarted
    running: float | None
    waiting: float | None
    cache: float | None
    cache_max: float | None
    queued: int  # sequences requested and not yet given to the engine, now
    preemptions: int
    received: int  # bytes of weights
    memory_gib: float | None  # in use on its GPU, by whomever; on a CPU: resident memory of the process


class UsageWatch:
    """Reads an engine's usage from vLLM's scheduler, which is in this process."""

    def __init__(self, scheduler: Any, receiver: Any):
        """receiver: with the bytes that it has `received`."""
        self.scheduler, self.receiver = scheduler, receiver
        self.preemptions = 0
        preempt = scheduler._preempt_request

        def counted(*args: Any, drop_stale_output: bool = False, **more: Any) -> Any:
            self.preemptions += not drop_stale_output  # True: new weights make vLLM compute the cache anew
            return preempt(*args, drop_stale_output=drop_stale_output, **more)

        scheduler._preempt_request = counted

    def now(self) -> Usage:
        running, waiting = self.scheduler.get_request_counts()
        cache = self.scheduler.kv_cache_manager.usage
        return Usage(running, waiting, cache, self.preemptions, self.receiver.received)


class UsageLog:
    """Sums over engine steps since they were last taken. Safe to use from several threads."""

    def __init__(self) -> None:
        self.born = time.time()
        self._lock = threading.Lock()
        self._steps = self._running = self._waiting = 0
        self._cache = self._cache_max = 0.0
        self._last = self._taken = Usage(0, 0, 0.0, 0, 0)

    def note(self, usage: Usage) -> None:
        """After an engine step."""
        with self._lock:
            self._steps += 1
            self._running += usage.running
            self._waiting += usage.waiting
            self._cache += usage.cache
            self._cache_max = max(self._cache_max, usage.cache)
            self._last = usage

    def take(self, queued: int, device: Device) -> WorkerStatus:
        memory = memory_gib(device)
        with self._lock:
            steps, last, before = self._steps, self._last, self._taken
            status = WorkerStatus(
                self.born,
                self._running / steps if steps else None,
                self._waiting / steps if steps else None,
                self._cache / steps if steps else None,
                self._cache_max if steps else None,
                queued,
                last.preemptions - before.preemptions,
                last.received - before.received,
                memory,
            )
            self._steps = self._running = self._waiting = 0
            self._cache = self._cache_max = 0.0
            self._taken = last
        return status


def memory_gib(device: Device) -> float | None:
    """In use on this process's GPU, by whomever; on a CPU: resident memory of this process. None: the kernel does not
    say, or this process holds no GPU (vLLM's own processes do, with tensor parallelism)."""
    if device is Device.gpu:
        import torch

        if not torch.cuda.is_initialized():  # asking would make a context, and take memory of the model's
            return None
        free, total = torch.cuda.mem_get_info()
        return float(total - free) / GIB
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / GIB
    except OSError:
        return None
