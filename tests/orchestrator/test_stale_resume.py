"""A run with batches in flight (run.max_staleness=1) whose driver is killed: every prompt of the stream is learnt from
once, in its order, whatever was in flight; docs/pipeline.md says what is equal to an undisturbed run, and what is not.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from conf.compose import from_file
from rollout.data.stream import PromptStream
from tests.helpers.launched import Watched, succeeded
from tests.helpers.runs import TINY, checkpoints, read_lines, steps

pytestmark = [pytest.mark.heavy, pytest.mark.bench]
PROMPTS = 4  # of a step
SETTINGS = ["experiment=quickstart", "warmup=none", *TINY, f"rollout.prompts_per_step={PROMPTS}", "rollout.workers=1"]
STALE = [
    "run.max_staleness=1",
    "algorithm.importance=truncate",
    "run.save_every=3",
    f"run.samples_per_step={2 * PROMPTS}",
    "run.name=mine",
]


def asked_by_step(folder: Path) -> list[set[str]]:
    """The prompts that each step learnt from, by their uids: samples.jsonl has an answer to each."""
    found: dict[int, set[str]] = {}
    for line in read_lines(folder / "samples.jsonl"):
        found.setdefault(line["step"], set()).add(line["uid"])
    return [found[step] for step in sorted(found)]


def test_no_prompt_is_lost_or_learnt_from_twice(tiny_model: Path, tmp_path: Path) -> None:
    run = Watched(["train", *SETTINGS, *STALE, f"model.path={tiny_model}", "run.steps=100000"], tmp_path)
    folder = tmp_path / "runs" / "mine"
    run.until(lambda: max(steps(folder), default=0) >= 5, "steps behind a checkpoint")
    os.kill(run.process.pid, signal.SIGKILL)
    run.wait()
    saved, done = max(checkpoints(folder)), max(steps(folder))
    before = asked_by_step(folder)

    last = done + 3
    again = succeeded(Watched(["train", f"resume={folder}", f"run.steps={last}"], tmp_path).wait())
    assert f"going on from step {saved}" in again.out
    assert steps(folder) == [*range(1, last + 1)]
    conf = from_file(folder / "config.yaml", [])
    stream = PromptStream(None, lambda problem: np.zeros(1, np.int32), conf.data, conf.run.seed)
    expected = [{prompt.uid for prompt in stream.take(PROMPTS)} for _ in range(last)]
    assert len(set().union(*expected)) == PROMPTS * last
    assert asked_by_step(folder) == expected
    assert before == expected[: len(before)] and len(before) >= done - 1  # it may be killed between two files
