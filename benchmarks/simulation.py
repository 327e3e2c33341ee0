"""How far does the pipeline scale? A discrete-event model of it, checked against real runs here, then run for GPUs.

The check: one engine's step time is measured against the number of running sequences, two synchronous runs of
`thinkless train` (a small and a large batch) give the costs of reward, learner, push and driver, and one that samples
ahead gives what engine and learner lose by running side by side. From these alone the model predicts the mean step
time of other runs: other batch and group sizes, a response cap, staleness 0, 1 and 2.
All runs sample with the quickstart's model after a short warm-up, at a learning rate of almost nothing, so that
lengths keep their law.

Then two tables as markdown on stderr, one of the layouts that 4 GPUs could have and one for 4, 64 and 1,024 GPUs (see
docs/plan.md for their assumptions: nothing in them was measured on a GPU). Figures,
one JSON line each on stdout:

    simulation_error          the largest of the next ones; goal 0.15
    simulation_error_<run>    |predicted / measured - 1| of the mean step time
    layout_hours_<layout>     hours per 600 steps of experiment=thinkless_1p5b on 4 GPUs, simulated: samplers, ranks,
                              placement (d: disaggregated, c: colocated, l: lent) and run.max_staleness
    default_vs_former         step time of two samplers and two ranks, strictly on-policy, over that of the preset;
                              goal 1.5
    default_vs_former_slow    the same if a hand-over of the GPUs takes five times as long as is assumed
    default_vs_former_async   the same if asynchronous scheduling hides all that the host does in a step
    default_async_hours       hours per 600 steps of the preset then

About five minutes on two free cores. --only check, layouts or table: a part of it. The small form checks the settings
of all runs and lets two short ones stand for them: its predictions mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `rollout` is the room, not rollout.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import benchmarks._pipeline.layouts as layouts_of_4
from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._pipeline.measured import Library, Parts, fitted, line, parts_of, sample
from benchmarks._pipeline.scale import SETUPS, table
from benchmarks._runs import ROOT, SHORT_ANSWERS, SHORT_SKIP, add_runs, check_settings, runs_folder, short_run
from orchestrator.plan.costs import Batch, Costs, EngineCosts, Step
from orchestrator.plan.simulation import Pipeline

STEPS, SKIP, SEEDS = 32, 4, 5  # of each run; not counted; simulations that a prediction is the mean of


@dataclass(frozen=True, slots=True)
class Setting:
    """A run of the quickstart's task."""

    name: str
    prompts: int
    group: int
    staleness: int
    cap: int = 128

    def overrides(self) -> list[str]:
        return [
            f"rollout.prompts_per_step={self.prompts}",
            f"rollout.group_size={self.group}",
            f"run.max_staleness={self.staleness}",
            f"rollout.max_response_tokens={self.cap}",
        ]


SMALL, LARGE, BESIDE = Setting("small", 12, 8, 0), Setting("large", 56, 8, 0), Setting("beside", 24, 8, 1)
CHECKED = (
    Setting("sync", 32, 8, 0),
    Setting("ahead_1", 32, 8, 1),
    Setting("ahead_2", 16, 16, 2),
    Setting("ahead_1_cap_48", 48, 8, 1, 48),
)
SAME = (
    f"run.steps={STEPS} run.save_every=0 run.logprob_check_every=0 evaluate.every=0 evaluate.final=false "
    f"tracker.report=false "
    "tracker.progress=false tracker.console=false warmup.steps=600 learner.lr=1e-12 algorithm.importance=truncate "
    "rollout.workers=1 rollout.num_cpus=0.4"
).split()


def train(setting: Setting, root: Path, cache: Path) -> Path:
    """A real run; returns its folder."""
    folder, log = root / setting.name, root / f"{setting.name}.log"
    command = [sys.executable, "-m", "orchestrator", "train", "experiment=quickstart", f"run.root={root}",
               f"run.name={setting.name}", f"warmup.cache={cache}", *SAME, *setting.overrides()]  # fmt: skip
    begin = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"the run {setting.name} failed with exit code {code}:\n" + log.read_text()[-2000:])
    say(f"run {setting.name} ({time.monotonic() - begin:.0f} s): {parts_of(folder, SKIP)}")
    return folder


def measure(folder: Path, small: bool) -> tuple[list[Any], Library, int]:
    """`sample` in a process of its own: what it imports must not slow what follows."""
    command = [sys.executable, __file__, "--sample", str(folder), *(["--small"] if small else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"sampling failed with exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    library = Library(**{name: np.array(column) for name, column in found["library"].items()})
    return found["turns"], library, found["max_num_seqs"]


def predicted(setting: Setting, costs: Costs, library: Library) -> list[list[Step]]:
    """One simulated run for each seed, its first steps left out."""
    runs = []
    for seed in range(SEEDS):
        batches = library.batches(setting.prompts, setting.group, setting.cap, -1.0, seed)
        pipeline = Pipeline(costs, 1, setting.staleness, float(setting.cap))
        runs.append(pipeline.simulate(batches, STEPS)[SKIP:])
    return runs


def mean(runs: list[list[Step]], name: str) -> float:
    return float(np.mean([getattr(step, name) for run in runs for step in run]))


def learnt(batch: Batch) -> float:
    """Tokens that the learner computes: prompts once for their siblings."""
    prompts, responses = batch.sequences()
    return float(prompts.sum() / batch.lengths.shape[1] + responses.sum())


def calibrated(engine: EngineCosts, library: Library, small: Parts, large: Parts) -> Costs:
    """Lines through the parts of the two runs: against trajectories, the learner's against its tokens, sampling
    against what the engine's steps add up to (a worker is a little slower than an engine by itself)."""
    bare = Costs(engine, lambda batch: 0.0)
    counts = [setting.prompts * setting.group for setting in (SMALL, LARGE)]
    sampling = [mean(predicted(setting, bare, library), "rollout") for setting in (SMALL, LARGE)]
    tokens = []
    for setting in (SMALL, LARGE):
        batches = library.batches(setting.prompts, setting.group, setting.cap, -1.0, 0)
        tokens.append(float(np.mean([learnt(next(batches)) for _ in range(50)])))

    def fit(name: str, against: list[float] | list[int]) -> tuple[float, float]:
        return line((against[0], getattr(small, name)), (against[1], getattr(large, name)))

    call, slower = fit("rollout", sampling)
    learner, reward, ask, tail = fit("learner", tokens), fit("reward", counts), fit("ask", counts), fit("tail", counts)
    push, load = (small.push + large.push) / 2, (small.load + large.load) / 2
    say(
        f"engine: {1e3 * engine.step_s[1]:.1f} ms a step with 1 sequence, {1e3 * engine.step_s[64]:.1f} with 64, "
        f"{1e3 * engine.step_s[256]:.1f} with 256; {1e6 * engine.begin_s:.0f} us to begin one, "
        f"{1e6 * engine.end_s:.0f} to end one"
    )
    say(
        f"two runs: sampling {1e3 * call:.1f} ms + {slower:.2f} x the engine's steps ({1e3 * sampling[0]:.0f}, "
        f"{1e3 * sampling[1]:.0f} ms); learner {1e3 * learner[0]:.0f} ms + "
        f"{1e6 * learner[1]:.0f} us a token; reward {1e3 * reward[0]:.1f} ms + {1e6 * reward[1]:.0f} us a trajectory; "
        f"push {1e3 * push:.0f} ms, {1e3 * load:.0f} of it loading"
    )
    return Costs(
        engine=replace(scaled(engine, slower), load_s=load),
        learner=lambda batch: learner[0] + learner[1] * learnt(batch),
        ask=lambda batch: ask[0] + ask[1] * batch.lengths.size,
        reward=lambda batch: reward[0] + reward[1] * batch.lengths.size,
        tail=lambda batch: tail[0] + tail[1] * batch.lengths.size,
        call_s=call / 2,
        publish_s=max(push - load - call / 2, 0.0),
    )


def scaled(engine: EngineCosts, factor: float) -> EngineCosts:
    """The same engine on a slower machine."""
    steps = tuple(factor * seconds for seconds in engine.step_s)
    others = {name: factor * getattr(engine, name) for name in ("first_s", "begin_s", "end_s")}
    return replace(engine, step_s=steps, **others)


def beside(costs: Costs, library: Library, alone: dict[Setting, Parts], together: Parts) -> Costs:
    """Costs when engine and learner run at the same time and share caches, memory and the rest of the machine."""

    def against(setting: Setting, parts: Parts) -> tuple[float, float]:
        runs = predicted(setting, costs, library)
        return parts.sampling / mean(runs, "sampled"), parts.learner / mean(runs, "learner")

    before = np.mean([against(setting, parts) for setting, parts in alone.items()], 0)
    sampling, learner = np.maximum(np.array(against(BESIDE, together)) / before, 1.0).tolist()
    say(f"side by side, sampling takes {sampling:.2f} and learning {learner:.2f} times as long")
    return replace(costs, engine=scaled(costs.engine, sampling), learner=lambda batch: learner * costs.learner(batch))


def check(root: Path, cache: Path) -> None:
    """Calibration and checked runs take turns, so that what else the machine does falls on both."""
    folders = {SMALL: train(SMALL, root, cache)}
    turns, library, max_num_seqs = measure(folders[SMALL], small=False)
    for setting in (CHECKED[0], CHECKED[1], BESIDE, LARGE, *CHECKED[2:]):
        folders[setting] = train(setting, root, cache)
    measured = {setting: parts_of(folder, SKIP) for setting, folder in folders.items()}
    report(measured, fitted(turns, max_num_seqs), library)


def check_small(root: Path) -> None:
    """A short run's parts, in proportion to the answers of a setting, stand for those of its run."""

    def parts(setting: Setting) -> Parts:
        times = setting.prompts * setting.group / SHORT_ANSWERS
        short = asdict(parts_of(short_run(setting.staleness, root), SHORT_SKIP))
        return Parts(**{name: times * seconds for name, seconds in short.items()})

    every = (SMALL, LARGE, BESIDE, *CHECKED)
    for setting in every:
        check_settings(["experiment=quickstart", *SAME, *setting.overrides()])
    measured = {setting: parts(setting) for setting in every}
    turns, library, max_num_seqs = measure(short_run(0, root), small=True)
    report(measured, fitted(turns, max_num_seqs), library)


def report(measured: dict[Setting, Parts], engine: EngineCosts, library: Library) -> None:
    """measured: of all calibration and checked runs."""
    alone = {setting: measured[setting] for setting in (SMALL, LARGE)}
    costs = calibrated(engine, library, *alone.values())
    shared = beside(costs, library, alone, measured[BESIDE])
    errors = []
    for setting in CHECKED:
        runs, real = predicted(setting, shared if setting.staleness else costs, library), measured[setting]
        found = mean(runs, "seconds")
        errors.append(abs(found / real.step - 1))
        say(
            f"{setting.name}: {1e3 * real.step:.0f} ms a step, {1e3 * found:.0f} predicted (sampling "
            f"{1e3 * mean(runs, 'sampled'):.0f}, rollout {1e3 * mean(runs, 'rollout'):.0f}, learner "
            f"{1e3 * mean(runs, 'learner'):.0f}, push {1e3 * mean(runs, 'push'):.0f}; measured {real})"
        )
        figure(f"simulation_error_{setting.name}", errors[-1], "relative error of the mean step time")
    figure("simulation_error", max(errors), "relative error of the mean step time", 0.15)


def layouts(steps: int) -> None:
    found = {one: layouts_of_4.simulated(one, steps) for one in layouts_of_4.LAYOUTS}
    for one, result in found.items():
        kind = "d" if not one.shared else "c" if one.shared == one.samplers else "l"
        name = f"layout_hours_{one.samplers}_{one.ranks}_{kind}_{one.staleness}"
        figure(name, result.hours, f"simulated hours per {layouts_of_4.RUN} steps")
    former, default = layouts_of_4.FORMER, layouts_of_4.DEFAULT
    slow = layouts_of_4.simulated(default, steps, slower=5.0)
    figure("default_vs_former", found[former].seconds / found[default].seconds, "ratio of simulated step times", 1.5)
    figure("default_vs_former_slow", found[former].seconds / slow.seconds, "ratio of simulated step times")
    hidden = {one: layouts_of_4.simulated(one, steps, host=False) for one in layouts_of_4.LAYOUTS}
    ratio = hidden[former].seconds / hidden[default].seconds
    figure("default_vs_former_async", ratio, "ratio of simulated step times")
    figure("default_async_hours", hidden[default].hours, f"simulated hours per {layouts_of_4.RUN} steps")
    say(layouts_of_4.table(found, hidden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("check", "layouts", "table"), help="a part of it (both)")
    parser.add_argument("--keep", type=Path, help="keep run folders and warm-up here, and use the warm-up found here")
    parser.add_argument("--driver-per-s", type=float, default=20000.0, help="trajectories/s of the driver (20000)")
    add_small(parser)
    add_runs(parser)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        os.nice(int(os.environ.get("RAY_worker_niceness", "15")))  # noqa: SIM112  as Ray's workers
        print(json.dumps(sample(arguments.sample, arguments.small)), file=answers, flush=True)
        return
    if arguments.small:
        without_goals()
    if arguments.only in (None, "check"):
        if arguments.small:
            with runs_folder(arguments.runs) as root:
                check_small(root)
        elif arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            root = Path(tempfile.mkdtemp(prefix="runs-", dir=arguments.keep)).absolute()
            check(root, root.parent / "warmup")
        else:
            with tempfile.TemporaryDirectory(prefix="thinkless-simulation-") as scratch:
                check(Path(scratch), Path(scratch) / "warmup")
    if arguments.only in (None, "layouts"):
        layouts(1 if arguments.small else layouts_of_4.STEPS)
    if arguments.only in (None, "table"):
        say(table(arguments.driver_per_s, say, SETUPS[:1] if arguments.small else SETUPS))


if __name__ == "__main__":
    main()
