"""Settings under which a run takes seconds, what its folder holds, and the figures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.base.line import read

# After this warm-up the model answers level 2 in both modes, level 4 only by thinking.
TASK = [
    "experiment=quickstart",
    "data.arithmetic.levels=[2,4]",
    "data.arithmetic.weights=[0.7,0.3]",
    "warmup.arithmetic.levels=[2,4]",
    "warmup.arithmetic.weights=[0.3,0.7]",
    "warmup.short_weight=1",
    "warmup.steps=500",
    "rollout.workers=1",
]
TINY = ["rollout.prompts_per_step=4", "rollout.group_size=4", "evaluate.every=0", "evaluate.final=false"]
TINY += ["learner.schedule=constant", "rollout.kv_cache_gib=0.25", "run.logprob_check_every=1"]
SAVE_EVERY = 2  # of the runs with two samplers and two learner ranks


def records(folder: Path) -> list[dict[str, Any]]:
    """The training steps that a run has recorded so far, without validations."""
    path = folder / "metrics.jsonl"
    return [row for row in read_lines(path) if "seconds/step" in row] if path.exists() else []


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a run's file of lines, each as it was written."""
    return [read(line) for line in path.read_bytes().splitlines()]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in records(folder)]


def restarts(folder: Path, of: str = "worker/") -> list[int]:
    """What the counters of restarts added, by step and actor. of: "worker/", a sampler's, "reward/" or "learner"."""
    return [value for row in records(folder) for key, value in row.items() if key.startswith(f"restarts/{of}")]


def checkpoints(folder: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


def level_figures(accuracy: float, reward: float, think_rate: float, tokens: float) -> dict[str, float]:
    """What an evaluation measured at one level in one mode."""
    return {"n": 512, "accuracy": accuracy, "reward": reward, "think_rate": think_rate, "tokens": tokens}
