"""End to end on the CPU against TRL's GRPOTrainer (1.16, transformers generation): trajectories/s of whole training.

Figures, one JSON line each on stdout (what led to them on stderr); medians over rounds, in which the two take turns:

    e2e_vs_trl                        ours over TRL's, every answer 46 tokens long; goal 1.5
    e2e_vs_trl_ragged                 the same, log-normal lengths: median 30, 99th percentile 400, cap 512; goal 3
    e2e_vs_trl_mild                   with --only mild: mean 46, deviation 13, cap 128; no goal
    e2e_trajectories_per_s[_ragged], trl_trajectories_per_s[_ragged]

Both train the same 0.9 M-parameter Qwen2 in float32 (benchmarks/_trl/chain.py makes it; lengths are the model's own,
nobody forces them) on the same prompts of 16 tokens: 32 prompts x 8 answers a step, one optimizer step each, GRPO with
a reference model, AdamW with the same settings, the same reward. Steps before the first counted one are warm-up.
TRL runs in its own pinned environment (benchmarks/trl.lock, made in .bench/trl the first time) with gradient
checkpointing off, and as many threads as it is fastest with, measured here before the first round (ragged: all of them,
since a step takes a minute). Ours is `thinkless train` with one batch asked for ahead, one thread in an engine and one
in the learner, as many rollout workers as it is fastest with, measured likewise, read from metrics.jsonl; its last
step, during which nothing is sampled, is not counted.
--small: TRL takes part only where its environment has been made, and samples 16 answers a step; of our side the
settings are checked, a barely taught model is made, and one short run of the quickstart's task gives the speeds of all.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its `learner`, `rollout` and `trl` are not those that are meant
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._runs import ROOT, SHORT_SKIP, add_runs, check_settings, runs_folder, short_run
from benchmarks._trl import chain as chains
from benchmarks._trl.chain import Chain
from benchmarks._trl.environment import CACHE, Failed, holding, trl_packages, trl_python

SIDE = ROOT / "benchmarks" / "_trl" / "side.py"
PROMPTS, GROUP, PROMPT_TOKENS = 32, 8, 16
TRAJECTORIES = PROMPTS * GROUP
LR, KL = 1e-6, 0.001
MICRO_BATCH_TOKENS = 2048  # ours
THREADS = tuple(range(1, len(os.sched_getaffinity(0)) + 1))[:4]  # of TRL, and rollout workers of ours, tried
QUIET = 0.7  # load average, above which a note is made
WORKLOAD_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Case:
    """One mix of lengths. Steps are the counted ones of a round."""

    name: str
    figure: str
    chain: Callable[[], Chain]
    cap: int  # response tokens
    goal: float | None
    micro_batch: int  # trajectories, TRL's
    trl_steps: int  # 1: a step takes a minute; then nothing is tried first, and the median over rounds drops a cold one
    our_steps: int
    our_warmup: int
    usual: bool = True  # measured when nothing is asked for by name
    teaching_steps: int = 300


CASES = (
    Case("even", "e2e_vs_trl", chains.endless, 46, 1.5, 32, 6, 10, 3, teaching_steps=150),
    Case("mild", "e2e_vs_trl_mild", lambda: chains.mild(46), 128, None, 32, 4, 10, 3, usual=False, teaching_steps=150),
    Case("ragged", "e2e_vs_trl_ragged", lambda: chains.log_normal(30, 400), 512, 3.0, 32, 1, 6, 2),
)


@dataclass(slots=True)
class Turn:
    """What one side did in one round."""

    steps: int
    seconds: float
    lengths: dict[str, float] = field(default_factory=dict)  # mean, p50, p95, max

    @property
    def speed(self) -> float:
        """Trajectories/s."""
        return self.steps * TRAJECTORIES / self.seconds

    def __str__(self) -> str:
        lengths = ", ".join(f"{name} {value:.0f}" for name, value in self.lengths.items())
        return f"{self.speed:.1f} trajectories/s ({self.seconds / self.steps:.2f} s a step; tokens: {lengths})"


# ------------------------------------------------------------------------------------------------------- model, data


def make_model(case: Case) -> Path:
    """The folder that both sides load; made once (a minute or two for the ragged one) and kept in .bench."""
    source = hashlib.sha256(Path(chains.__file__).read_bytes()).hexdigest()[:8]
    folder = CACHE / f"{case.name}-{source}"
    with holding(CACHE / "model.lock"):
        chains.teach(folder, case.chain(), longest=case.cap + 32, steps=case.teaching_steps, say=say)
    return folder


# -------------------------------------------------------------------------------------------------------- the sides


class TRL:
    """The process of `_trl/side.py`: idle but for the steps asked for."""

    def __init__(
        self, case: Case, model: Path, prompts: list[str], python: Path, log: Path, trajectories: int = TRAJECTORIES
    ):
        """trajectories: of a step."""
        from rollout.data.tokens import ASSISTANT, USER

        job = {
            "model": str(model), "group_size": GROUP, "trajectories": trajectories, "micro_batch": case.micro_batch,
            "max_tokens": case.cap, "lr": LR, "kl": KL, "threads": max(THREADS),
            "prompts": [f"{USER}{text}{ASSISTANT}" for text in prompts[:1024]],
        }  # fmt: skip
        environment = clean_environment() | {
            "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": str(max(THREADS)),
        }  # fmt: skip
        self.log = log
        (log.parent / "job.json").write_text(json.dumps(job))
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), str(SIDE), str(log.parent / "job.json")],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
            )  # fmt: skip
        self._answer()

    def __call__(self, steps: int, threads: int) -> Turn:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"steps": steps, "threads": threads}) + "\n")
        answer = self._answer()
        return Turn(steps, answer["seconds"], describe(answer["lengths"]))

    def fastest_threads(self) -> int:
        """Measured, one step each, after one that is warm-up."""
        self(1, max(THREADS))
        turns = {threads: self(1, threads) for threads in THREADS}
        for threads, turn in turns.items():
            say(f"  TRL with {threads} thread(s): {turn}")
        return max(turns, key=lambda threads: turns[threads].speed)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"TRL's side ended with exit code {self.process.wait()}: {last_line(self.log)}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        ended(self.process)


def fastest_workers(ours: Callable[[int], Turn]) -> int:
    """Of as many rollout workers as there may be threads, a run each."""
    turns = {workers: ours(workers) for workers in THREADS}
    for workers, turn in turns.items():
        say(f"  ours with {workers} rollout worker(s): {turn}")
    return max(turns, key=lambda workers: turns[workers].speed)


def train(case: Case, model: Path, prompts: list[str], scratch: Path, overrides: list[str], workers: int) -> Turn:
    """`thinkless train` from its start, as a person starts it."""
    data, log = scratch / "prompts.jsonl", scratch / "thinkless.log"
    write_prompts(data, prompts)
    name = f"{case.name}-{len(list(scratch.iterdir()))}"
    command = [sys.executable, "-m", "orchestrator", "train", f"run.root={scratch}", f"run.name={name}"]
    command += [*settings_of(case, model, data, workers), *overrides]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment() | {"PYTHONPATH": str(ROOT)},
                                   stdout=output, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            code = process.wait()
        finally:
            ended(process)
    if code:
        raise Failed(f"thinkless train ended with exit code {code}: {last_line(log)}")
    return steady(read_metrics(scratch / name / "metrics.jsonl"), case.our_warmup)


def write_prompts(path: Path, prompts: list[str]) -> None:
    path.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in prompts))


def settings_of(case: Case, model: Path, data: Path, workers: int) -> list[str]:
    """Overrides of our side."""
    settings: dict[str, Any] = {
        "model.path": model, "run.max_staleness": 1,
        "run.steps": case.our_warmup + case.our_steps + 1, "run.save_every": 0, "run.logprob_check_every": 0,
        "data.path": data, "data.max_prompt_tokens": PROMPT_TOKENS,
        "rollout.prompts_per_step": PROMPTS, "rollout.group_size": GROUP, "rollout.max_response_tokens": case.cap,
        "rollout.max_model_len": case.cap + 32, "rollout.workers": workers,
        "reward.function": "benchmarks._trl.side:reward",
        "algorithm": "grpo", "algorithm.optimizer_steps": 1, "algorithm.kl": KL, "algorithm.importance": "truncate",
        "learner.lr": LR, "learner.max_tokens": MICRO_BATCH_TOKENS, "evaluate.every": 0, "evaluate.final": "false",
        "validation.size": 0, "tracker.report": "false", "tracker.console": "false",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in settings.items()]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steady(records: list[dict[str, Any]], warmup: int) -> Turn:
    """The steps after `warmup` ones and before the last."""
    counted = records[warmup:-1]
    seconds = counted[-1]["time"] - records[warmup - 1]["time"]
    lengths = {
        "mean": statistics.mean(r["tokens/mean"] for r in counted),
        "p50": statistics.median(r["tokens/p50"] for r in counted),
        "p95": statistics.median(r["tokens/p95"] for r in counted),
        "max": max(r["tokens/max"] for r in counted),
    }
    for key in ("seconds/rollout", "seconds/reward", "seconds/learner", "weight_sync/seconds", "seconds/step"):
        if (values := [r[key] for r in counted if r.get(key) is not None]) and len(values) == len(counted):
            say(f"  our {key}: {statistics.median(values):.3f}")
    return Turn(len(counted), seconds, lengths)


def describe(lengths: list[int]) -> dict[str, float]:
    found = sorted(lengths)
    return {
        "mean": statistics.mean(found),
        "p50": statistics.median(found),
        "p95": found[int(0.95 * (len(found) - 1))],
        "max": found[-1],
    }


def clean_environment() -> dict[str, str]:
    """This process's, less what would decide on threads, paths or a Ray that is running."""
    dropped = ("PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "RAY_ADDRESS", "LD_PRELOAD")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def ended(process: subprocess.Popen[Any]) -> None:
    """It ends by itself, or is asked to (its actors then end with it), or is made to."""
    for ask in (lambda: None, process.terminate, process.kill):
        ask()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
            return


# ------------------------------------------------------------------------------------------------------- comparison


def compare(
    trl: Callable[[], Turn], ours: Callable[[], Turn], rounds: int, tolerance: float = WORKLOAD_TOLERANCE
) -> tuple[float, float, float]:
    """Medians over rounds: (ours over TRL's, ours, TRL's), trajectories/s. They swap places every round. tolerance:
    between the two sides' mean lengths."""
    turns: list[tuple[Turn, Turn]] = []
    for number in range(rounds):
        first, second = (trl, ours) if number % 2 == 0 else (ours, trl)
        one, other = first(), second()
        theirs, mine = (one, other) if number % 2 == 0 else (other, one)
        say(f"  round {number + 1}: TRL  {theirs}\n  round {number + 1}: ours {mine}\n"
            f"  round {number + 1}: {mine.speed / theirs.speed:.2f}")  # fmt: skip
        turns.append((theirs, mine))
    means = [statistics.mean(turn[side].lengths["mean"] for turn in turns) for side in (0, 1)]
    if abs(means[1] / means[0] - 1) > tolerance:
        raise Failed(f"mean lengths of {means[0]:.1f} and {means[1]:.1f} tokens: the sides do not do the same work")
    ratio = statistics.median(mine.speed / theirs.speed for theirs, mine in turns)
    return ratio, statistics.median(t[1].speed for t in turns), statistics.median(t[0].speed for t in turns)


def run(case: Case, rounds: int, python: Path, overrides: list[str]) -> None:
    model, prompts = make_model(case), chains.make_prompts(4096, PROMPT_TOKENS, seed=0)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder:
        scratch = Path(folder)
        say(f"{case.name}: answers of up to {case.cap} tokens")
        trl = TRL(case, model, prompts, python, scratch / "trl.log")
        try:
            threads = trl.fastest_threads() if case.trl_steps > 1 else max(THREADS)
            ours = partial(train, case, model, prompts, scratch, overrides)
            workers = fastest_workers(ours)
            ratio, mine, theirs = compare(lambda: trl(case.trl_steps, threads), lambda: ours(workers), rounds)
        finally:
            trl.close()
    print_figures(case, ratio, mine, theirs)


def print_figures(case: Case, ratio: float | None, mine: float, theirs: float | None) -> None:
    figure(case.figure.replace("e2e_vs_trl", "e2e_trajectories_per_s"), mine, "trajectories/s")
    if ratio is not None and theirs is not None:
        figure(case.figure.replace("e2e_vs_trl", "trl_trajectories_per_s"), theirs, "trajectories/s")
        figure(case.figure, ratio, "ratio of trajectories/s", case.goal)


def run_small(case: Case, runs: Path, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder:
        scratch, prompts = Path(folder), chains.make_prompts(64, PROMPT_TOKENS, seed=0)
        chains.teach(scratch / "model", case.chain(), longest=48, steps=4, say=say)
        write_prompts(scratch / "prompts.jsonl", prompts)
        check_settings([*settings_of(case, scratch / "model", scratch / "prompts.jsonl", 1), *overrides])
        ours = steady(read_metrics(short_run(1, runs) / "metrics.jsonl"), SHORT_SKIP)
        if trl_packages() is None:
            say("TRL's environment has not been made (--setup): no figure that needs it")
            return print_figures(case, None, ours.speed, None)
        tiny = replace(case, cap=24, micro_batch=8)
        trl = TRL(tiny, scratch / "model", prompts, CACHE / "trl" / "bin" / "python", scratch / "trl.log", 16)
        try:
            print_figures(case, *compare(lambda: trl(1, 1), lambda: ours, 1, tolerance=math.inf))
        finally:
            trl.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one mix of lengths")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--setup", action="store_true", help="make TRL's environment and the models, measure nothing")
    add_small(parser)
    add_runs(parser)
    parser.add_argument("overrides", nargs="*", help="settings of our side, key=value")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only == case.name or (arguments.only is None and case.usual)]
    if arguments.small:
        without_goals()
        with runs_folder(arguments.runs) as runs:
            for case in cases:
                run_small(case, runs, arguments.overrides)
        return
    if os.getloadavg()[0] > QUIET:
        say(
            f"note: the machine is busy (load {os.getloadavg()[0]:.1f}): threads that wait for each other, TRL's first "
            "of all, are then slower many times over, and the figures mean little"
        )
    try:
        python = trl_python()
        for case in cases:
            if arguments.setup:
                make_model(case)
            else:
                run(case, arguments.rounds, python, arguments.overrides)
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
