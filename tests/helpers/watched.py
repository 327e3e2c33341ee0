"""Run folders made by hand for what follows runs: records, answers, a timeline, a process that holds the lock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator.tracking.chrome_trace import Trace
from orchestrator.tracking.utilization import DRIVER, Actor
from orchestrator.training.run_dir import lock
from rollout.base.spans import Span

ROOT = Path(__file__).parents[2]
LEVELS = ("2", "7")
HOLD = "import sys, pathlib; from orchestrator.base.lock import locked\nwith locked(pathlib.Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True); sys.stdin.read()"
BEGAN = 1.79e9  # when the made runs began, seconds since the epoch


def record(step: int, **changes: Any) -> dict[str, Any]:
    """A training step of 2 s."""
    share = step / 100
    return {
        **{"step": step, "time": BEGAN + 2 * step, "seconds/step": 2.0, "seconds/rollout": 1.2, "seconds/reward": 0.1},
        **{"seconds/learner": 0.5, "weight_sync/seconds": 0.1, "reward/mean": share, "accuracy/all": 0.9},
        **{"rollout/tokens_per_s": 2000.0, "learner/tokens_per_s": 4000.0, "entropy": 0.3, "mismatch/kl": 1e-6},
        **{"think_rate/all": 0.5, "tokens/mean": 30.0, "busy/rollout": 0.6, "busy/learner": 0.25, "busy/reward": 0.05},
        **{f"think_rate/level/{level}": share for level in LEVELS},
        **{f"accuracy/level/{level}": 0.9 for level in LEVELS},
        **changes,
    }


def answer(step: int, mode: str | None, **changes: Any) -> dict[str, Any]:
    response = {"think": "<think>1+1=2</think>\\boxed{2}", "short": "<short>\\boxed{3}", None: "\\boxed{2}"}[mode]
    given = {"step": step, "uid": f"sum/{step}", "level": LEVELS[step % 2], "problem": "1+1=", "response": response}
    outcome = "wrong" if mode == "short" else "correct"
    return given | {"mode": mode, "outcome": outcome, "reward": 0.5, "answer": "2"} | changes


def write_lines(path: Path, lines: list[dict[str, Any]], mode: str = "w") -> None:
    with path.open(mode) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def make_run(folder: Path, steps: int, of: int = 100, changes: dict[str, Any] | None = None) -> Path:
    """A run that is at `steps` of `of` steps, and whose process has gone."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"run:\n  steps: {of}\n  max_staleness: 0\nalgorithm:\n  loss: degrpo\n")
    session = {"started": "2026-09-21T14:00:00+0000", "ended": "2026-09-21T15:00:00+0000"}
    (folder / "provenance.json").write_text(json.dumps({"sessions": [session]}))
    write_lines(folder / "metrics.jsonl", [record(step, **changes or {}) for step in range(1, steps + 1)])
    return folder


def add_timeline(folder: Path, steps: int) -> None:
    """Two samplers, a grader and a learner over steps of 2 s."""
    samplers, grader, learner = [Actor("rollout", 0), Actor("rollout", 1)], Actor("reward"), Actor("learner")
    trace = Trace(folder / "timeline.json", dict.fromkeys([DRIVER, *samplers, grader, learner], ""))
    for step in range(1, steps + 1):
        at = BEGAN + 2 * (step - 1)
        for sampler in samplers:
            trace.write(trace.spans(sampler, [Span("sampling", at, at + 1.2)]))
        trace.write(trace.spans(grader, [Span("grading", at + 1.2, at + 1.3)]))
        trace.write(trace.spans(learner, [Span("learning", at + 1.3, at + 1.8)]))
        trace.write(trace.spans(DRIVER, [Span("waiting for trajectories", at, at + 1.2)]))
        trace.write([trace.step(step, (at, at + 2))])


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that works on the run, as far as its lock tells."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock(folder))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process
