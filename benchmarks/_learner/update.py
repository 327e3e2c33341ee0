"""Tokens/s of the learner's update: against other hands, at four times the tokens, with prompts computed once.

In: nothing but `small`. Out: figures. Must not know: how a side does its step (sides.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks._figures import figure, say
from benchmarks._learner.gradients import gradients
from benchmarks._learner.setup import (
    GRPO,
    LONG_SHAPE,
    as_batch,
    make_group,
    model_folder,
    quickstart_groups,
    ragged_groups,
    started_worker,
)
from benchmarks._learner.sides import Bare, Ours, check_same, make_trl, weights_of
from conf.schema import LearnerConf, ModelConf, RandomModelConf
from learner.data.pack import packing
from learner.metrics.memory import GIB

GOALS = {"torch": 0.9, "trl": 2.0}


def update(small: bool) -> None:
    from rollout.data.tokens import load_tokenizer

    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        groups = quickstart_groups(load_tokenizer(path, ModelConf()), prompts=4 if small else 32)
        compare("", path, groups, Path(scratch), 1 if small else 21, (8,) if small else (8, 16, 32, 64))


def update_long(small: bool) -> None:
    """Lengths as reasoning models have them, at a sixteenth of their scale."""
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", LONG_SHAPE)
        groups = ragged_groups(1 if small else 4, 121.5, 256 if small else 1536, (10, 40))
        compare("_long", path, groups, Path(scratch), 1 if small else 5, (4,) if small else (4, 8, 16))


def compare(name: str, path: str, groups: list[Any], folder: Path, rounds: int, sizes: tuple[int, ...]) -> None:
    """sizes: micro-batches of TRL that are tried."""
    import torch

    conf = LearnerConf(threads=1, lr=1e-4)
    batch = as_batch(groups, conf)
    lengths = [len(t.prompt.token_ids) + len(t.token_ids) for g in groups for t in g.trajectories]
    say(
        f"update{name}: {len(lengths)} trajectories of {min(lengths)} to {max(lengths)} tokens, {batch.tokens} in all, "
        f"{len(batch.ranks[0])} micro-batches, {packing([batch], conf.max_tokens).padding:.1%} padding"
    )
    sides: dict[str, Any] = {
        f"torch, {kind} logits": Bare(path, conf, kind == "plain") for kind in ("plain", "chunked")
    }
    start = weights_of(sides["torch, plain logits"].policy.causal_lm)
    for size in sizes:  # before the learner's rank: TRL would take its process group for a distributed run
        trl = make_trl(path, conf, folder, size, groups)
        if trl is None:
            break
        sides[f"trl, {size} a micro-batch"] = trl
        if size == sizes[0]:
            say(f"TRL pads {trl.padding:.0%} of its cells")
    worker = started_worker(path, conf)
    sides["learner"] = Ours(worker)
    torch.set_num_threads(1)
    for side in sides.values():
        side(batch)
    check_same(start, sides)

    def timed(side: str) -> tuple[float, float]:
        begin, busy = time.perf_counter(), time.process_time()
        sides[side](batch)
        return time.perf_counter() - begin, time.process_time() - busy

    once = {side: min(timed(side) for _ in range(3))[0] for side in sides}
    best = [min((side for side in sides if side.startswith(kind)), key=once.__getitem__, default=None)
            for kind in ("learner", "torch", "trl")]  # fmt: skip
    chosen = [side for side in best if side]
    seconds: dict[str, list[float]] = {side: [] for side in chosen}
    busy: dict[str, list[float]] = {side: [] for side in chosen}
    for turn in range(rounds):
        for side in chosen if turn % 2 else reversed(chosen):
            for kept, taken in zip((seconds[side], busy[side]), timed(side), strict=True):
                kept.append(taken)
    for side in sides:
        taken, note = (statistics.median(seconds[side]), "") if side in seconds else (once[side], "  (not compared)")
        say(f"  {side}: {batch.tokens / taken:,.0f} tokens/s, {taken:.3f} s{note}")
    for side in chosen[1:]:
        ratios = [theirs / ours for ours, theirs in zip(seconds["learner"], seconds[side], strict=True)]
        cpu = statistics.median(busy[side]) / statistics.median(busy["learner"])
        say(f"  against {side}: {min(ratios):.3f} to {max(ratios):.3f}; of processor time {cpu:.3f}")
        other = side.split(",")[0]
        figure(f"update_vs_{other}{name}", statistics.median(ratios), "ratio of tokens/s", GOALS[other])
    figure(f"update_tokens_per_s{name}", batch.tokens / statistics.median(seconds["learner"]), "tokens/s")
    worker.close()


# ---------------------------------------------------------------------- prompts computed once


@contextlib.contextmanager
def computed_anew() -> Iterator[None]:
    """Here every sibling's prompt is packed and computed for itself."""
    with patch("learner.data.shared_prefix.WORTH", math.inf):
        yield


def sharing(small: bool) -> None:
    """The quickstart's step, then prompts of 400 to 600 tokens with answers of 8 to 1,024, median 120."""
    from rollout.data.tokens import load_tokenizer

    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        groups = quickstart_groups(load_tokenizer(path, ModelConf()), prompts=4 if small else 32)
        first = shared_against_anew("update_prompts_once", path, groups, 1 if small else 15)
        path = model_folder(Path(scratch) / "long", LONG_SHAPE)
        groups = ragged_groups(1 if small else 4, 120.0, 64 if small else 1024, (40, 60) if small else (400, 600))
        shared_against_anew("update_prompts_once_long", path, groups, 1 if small else 5)
        first.close()  # the process group is both's


def shared_against_anew(name: str, path: str, groups: list[Any], rounds: int) -> Any:
    """Prints figure `name`; returns the worker, which is not closed."""
    conf = LearnerConf(threads=1, lr=0.0, weight_decay=0.0)  # the two ways start from the same weights each time
    worker = started_worker(path, conf)
    once = as_batch(groups, conf)
    with computed_anew():
        anew = as_batch(groups, conf)
        wanted = gradients(worker, [anew.ranks[0]], GRPO)
    found = gradients(worker, [once.ranks[0]], GRPO)
    norm = math.sqrt(sum(float((g**2).sum()) for g in wanted.values()))
    error = math.sqrt(sum(float(((found[key] - wanted[key]) ** 2).sum()) for key in wanted)) / norm
    if error > 1e-4:
        raise SystemExit(f"{name}: the gradients of the two ways are {error:.1e} apart")

    def shared() -> None:
        worker.update([once.ranks[0]], GRPO)

    def repeated() -> None:
        with computed_anew():
            worker.update([anew.ranks[0]], GRPO)

    pairs = []
    for turn in range(rounds + 1):
        seconds = {}
        for way in (shared, repeated) if turn % 2 else (repeated, shared):
            begin = time.perf_counter()
            way()
            seconds[way] = time.perf_counter() - begin
        if turn:  # the first makes buffers
            pairs.append((seconds[shared], seconds[repeated]))
    ratios = [repeated_s / shared_s for shared_s, repeated_s in pairs]
    prompts = sum(len(t.prompt.token_ids) for group in groups for t in group.trajectories)
    say(
        f"{name}: {once.tokens} tokens ({prompts / once.tokens:.0%} prompts), {len(once.ranks[0])} micro-batches, "
        f"gradients {error:.1e} apart; {min(ratios):.2f} to {max(ratios):.2f}, "
        f"{statistics.median(s for s, _ in pairs):.3f} s against {statistics.median(s for _, s in pairs):.3f} s"
    )
    figure(name, statistics.median(ratios), "ratio of tokens/s")
    return worker


# ---------------------------------------------------------------------- scaling, growth


def scaling(small: bool) -> None:
    """Fixed length, one row each: 64 sequences of 128 tokens, then 256."""
    few, many = (1, 4) if small else (8, 32)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        conf = LearnerConf(threads=1, lr=1e-6, max_tokens=few * 8 * 128)
        worker = started_worker(path, conf)
        batches = {}
        for prompts in (few, many):
            rng = np.random.default_rng(prompts)
            ids = rng.integers(8, 264, (prompts, 9, 108)).astype(np.int32)
            batches[prompts] = as_batch(
                [make_group(g[0, :20], list(g[1:]), rng, f"s{i}") for i, g in enumerate(ids)], conf
            )
        ratios = []
        for turn in range(3 if small else 12):
            seconds = {}
            for prompts in (few, many) if turn % 2 else (many, few):
                begin = time.perf_counter()
                worker.update([batches[prompts].ranks[0]], GRPO)
                seconds[prompts] = time.perf_counter() - begin
            if turn > 1:
                ratios.append(seconds[many] / seconds[few] * batches[few].tokens / batches[many].tokens)
        say(f"scaling: {min(ratios):.3f} to {max(ratios):.3f}")
        figure("update_seconds_per_token_ratio", statistics.median(ratios), "ratio of s/token")
        worker.close()


def growth(small: bool) -> None:
    from rollout.data.tokens import load_tokenizer

    early, late = (2, 4) if small else (20, 200)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        conf = LearnerConf(threads=1, lr=1e-6, max_tokens=2048)
        groups = quickstart_groups(load_tokenizer(path, ModelConf()), prompts=6 if small else 16)
        rng, worker, sizes = np.random.default_rng(0), started_worker(path, conf), list[int]()
        for count in range(1, late + 1):
            chosen = [groups[i] for i in rng.permutation(len(groups))[: rng.integers(4, len(groups))]]
            worker.update([as_batch(chosen, conf).ranks[0]], GRPO)
            if count in (early, late):
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps for later goes up and down by 2 %
                sizes.append(psutil.Process().memory_info().rss)
        before, after = sizes
        say(f"growth: {before / GIB:.3f} GiB after {early} updates of differing size, {after / GIB:.3f} after {late}")
        figure("update_memory_growth", after / before, "ratio of bytes", 1.01)
        worker.close()
