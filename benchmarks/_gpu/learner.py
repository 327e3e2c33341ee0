"""The learner's update: tokens/s, utilization, memory by phase against the formulas, the head fused and by all logits.

In: nothing but `small`. Out: figures. Must not know: how the learner does it.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._figures import figure, say
from benchmarks._gpu.setup import as_config, learner_conf, random_folder, seconds, shape_for, the_device
from benchmarks._learner.setup import GRPO, as_batch, make_group, started_worker
from conf.schema import Dtype, LearnerConf
from learner.data.batch import TrainBatch
from learner.data.flops import Shape, device_peak
from learner.metrics.efficiency import efficiency
from learner.metrics.memory import GIB
from learner.metrics.memory_plan import learner_memory

TOKENS, PROMPT, HEAD_TOKENS = 26_624, 2048, 8192
SHRINK = 256  # of tokens in the small form


def learner(small: bool) -> None:
    device, shape, shrink = the_device(small), shape_for(small), SHRINK if small else 1
    peak = 1e12 if small else device_peak(device)
    say(f"peak: {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'unknown of this device: no utilization'}")
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = random_folder(Path(scratch), shape, torch.bfloat16, device)
        worker = started_worker(path, learner_conf(device, max_tokens=TOKENS // shrink), Dtype.bfloat16)
        speed(worker, shape, device, TOKENS // shrink, PROMPT // shrink, peak, 2 if small else 5)
        heads(worker, shape, device, HEAD_TOKENS // shrink, PROMPT // shrink, 1 if small else 3)
        worker.close()


def batch_of(shape: Shape, conf: LearnerConf, answers: int, prompt: int) -> TrainBatch:
    """Two rows of conf.max_tokens tokens: `answers` sequences in each, each with a prompt of its own."""
    rng, each = np.random.default_rng(answers), conf.max_tokens // answers
    ids = rng.integers(0, shape.vocab, (answers, 2, each)).astype(np.int32)
    given = max(prompt // answers, 1)
    groups = [make_group(pair[0, :given], list(pair[:, given:]), rng, f"g{i}") for i, pair in enumerate(ids)]
    return as_batch(groups, conf, shape.cost)


def updated(worker: Any, batch: TrainBatch, device: torch.device, times: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of each update, and the peak in bytes of each phase over all."""
    taken, peaks = [], dict[str, float]()
    for _ in range(times):
        reports: list[Any] = []
        taken.append(seconds(device, functools.partial(_update, worker, batch, reports)))
        say(f"  {taken[-1]:.2f} s, gradient norm {reports[0].grad_norm:.3g}, GiB {dict(reports[0].memory)}")
        peaks = {name: max(size * GIB, peaks.get(name, 0.0)) for name, size in reports[0].memory.items()}
    return taken, peaks


def _update(worker: Any, batch: TrainBatch, reports: list[Any]) -> None:
    reports.append(worker.update([batch.ranks[0]], GRPO))


def speed(
    worker: Any, shape: Shape, device: torch.device, tokens: int, prompt: int, peak: float | None, times: int
) -> None:
    """The median of the later half of the updates."""
    conf = worker.conf
    for kind, answers in (("", 1), ("_packed", 8)):
        batch = batch_of(shape, conf, answers, prompt)
        taken, peaks = updated(worker, batch, device, times)
        found = efficiency([batch], shape, 1, tokens, statistics.median(taken[times // 2 :]), [0], True, peak)
        if found.mfu is not None and found.hfu is not None:
            figure(f"mfu{kind}", found.mfu, "share of the peak", None if kind else 0.35)
            figure(f"hfu{kind}", found.hfu, "share of the peak", None if kind else 0.45)
        figure(f"gpu_tokens_per_s{kind}", found.tokens_per_s, "tokens/s")
        if not kind:
            plan = learner_memory(as_config(shape, tied=True), conf, Dtype.bfloat16, reference=False)
            say(f"  planned GB: { ({name: round(size / 1e9, 2) for name, size in plan.items.items()}) }")
            for phase in ("learn", "step"):
                figure(f"gpu_{phase}_gib", peaks[phase] / GIB, "GiB")
            figure("gpu_peak_over_plan", peaks["learn"] / plan.peak, "ratio", "0.9 to 1.1")


def heads(worker: Any, shape: Shape, device: torch.device, tokens: int, prompt: int, times: int) -> None:
    """Shorter rows, whose logits fit as a whole."""
    batch, best = batch_of(shape, replace(worker.conf, max_tokens=tokens), 1, prompt), dict[str, float]()
    for name, fused in (("fused", True), ("plain", False)):
        worker.engine.policy.head.fused = fused
        taken, peaks = updated(worker, batch, device, times)
        best[name] = min(taken)
        figure(f"head_{name}_gib", peaks["learn"] / GIB, "GiB")
    figure("head_plain_over_fused", best["plain"] / best["fused"], "ratio of seconds an update")
