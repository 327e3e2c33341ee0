"""What it costs that lost learner ranks can be replaced, and how long that takes. Figures are JSON lines on stdout.

    saving_share         seconds of a rank for the states that it keeps after each update (learner.max_restarts) and for
                         checkpoints (one in ten steps) over those of all steps of a short quickstart; goal 0.02
    keep_share           seconds in which a rank keeps its state over those of an update
    keep_gib_s           the same as GiB a second
    keep_share_shm, keep_share_disk   the state written as a checkpoint's files instead, to /dev/shm and to the
                         temporary folder
    ..._quickstart       of the quickstart's model and batch
    restart_seconds      from the death of a rank (kill -9) to the end of the update in which it is noticed

A model of 29 million parameters, one rank with one thread, 2,600 tokens an update. Keeping takes time in proportion to
the parameters, an update in proportion to parameters and tokens: with more tokens an update the share is smaller. At
staleness 0 it happens while answers are sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from benchmarks._learner.setup import GRPO, as_batch, model_folder, quickstart_groups, ragged_groups
from benchmarks._runs import ROOT
from conf.schema import ClusterConf, Config, LearnerConf, ModelConf, RandomModelConf
from learner.data.batch import TrainBatch
from learner.learner import Learner
from learner.restarts import Restarts
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.handles import RayHandle, wait_all
from orchestrator.cluster.parts import make_learner, start_learner
from rollout.data.tokens import load_tokenizer

WIDE = RandomModelConf(hidden_size=512, layers=9, heads=8, kv_heads=8, ffn_size=1408, init_std=0.044)  # 29 M
RUN = [
    "experiment=quickstart", "warmup.steps=150", "run.save_every=10", "learner.max_restarts=1", "learner.ranks=2",
    "learner.num_cpus=0.4", "rollout.workers=1", "rollout.num_cpus=0.4", "validation.size=0", "evaluate.every=0",
    "evaluate.final=false", "tracker.report=false",
]  # fmt: skip
LEARNER = LearnerConf(max_tokens=4096, num_cpus=0.5, max_restarts=1)


def started(cluster: Cluster, path: str) -> Learner:
    """A learner whose rank may be replaced."""
    conf = Config(learner=LEARNER)
    learner = make_learner(cluster, conf, LEARNER, path, 1.0, 1_000_000)

    def start() -> int:
        return start_learner(learner, conf, reference=False)

    say(f"{start():,} parameters")
    replace = cluster.lost_ranks(LEARNER, learner.ranks).replace
    learner.restarts = Restarts(learner.ranks, replace, start, 1, wait_all)
    return learner


def seconds(work: Callable[[], Any]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def shares(learner: Learner, batch: TrainBatch, rounds: int, name: str) -> None:
    """Updates and the ways to keep the state take turns."""
    (rank,) = learner.ranks
    folders = {"_shm": Path("/dev/shm"), "_disk": Path(tempfile.gettempdir())}
    spent: dict[str, list[float]] = {key: [] for key in ("update", "keep", *folders)}
    held: list[Any] = []
    learner.apply([batch], GRPO)

    def keep() -> None:
        held[:] = [rank.call("keep")]  # the one before it is dropped, as in a run
        rank.call("ready").wait()  # served after it: what it returns is in the object store

    def save(folder: str) -> None:
        rank.call("save", folder).wait()

    for _ in range(rounds):
        spent["update"].append(seconds(lambda: learner.apply([batch], GRPO)))
        spent["keep"].append(seconds(keep))
        for key, parent in folders.items():
            with tempfile.TemporaryDirectory(dir=parent, prefix="thinkless-bench-") as folder:
                spent[key].append(seconds(partial(save, folder)))
                size = sum(file.stat().st_size for file in Path(folder).iterdir())
    medians = {key: statistics.median(values) for key, values in spent.items()}
    say(f"{name or 'wide'}: {size / 2**20:.1f} MiB; medians " + ", ".join(f"{k} {v:.3f} s" for k, v in medians.items()))
    figure(f"keep_share{name}", medians["keep"] / medians["update"], "share")
    for key in folders:
        figure(f"keep_share{key}{name}", medians[key] / medians["update"], "share")
    if not name:
        figure("keep_gib_s", size / 2**30 / medians["keep"], "GiB/s")


def restart(learner: Learner, batch: TrainBatch) -> float:
    """Seconds of an update whose rank has just been killed."""
    (rank,) = learner.ranks
    assert isinstance(rank, RayHandle)
    place = rank.place()
    assert place is not None
    learner.apply([batch], GRPO)
    learner.keep_state()
    os.kill(place[1], signal.SIGKILL)
    return seconds(lambda: learner.apply([batch], GRPO))


def saving_share(root: Path, steps: int) -> float:
    """Of a run with two ranks."""
    folder = root / "run"
    where = [f"run.root={root}", "run.name=run", f"warmup.cache={root}/warmup", f"run.steps={steps}"]
    subprocess.run(
        [sys.executable, "-m", "orchestrator", "train", *RUN, *where], cwd=ROOT, stdout=sys.stderr, check=True
    )
    spans = [one for one in json.loads((folder / "timeline.json").read_text()) if one["ph"] == "X"]
    saved = sum(one["dur"] for one in spans if one["name"] == "saving") / 2
    return float(saved / sum(one["dur"] for one in spans if one["name"].startswith("step ")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    add_small(parser)
    arguments = parser.parse_args()
    figures_only()
    if arguments.small:
        without_goals()
    rounds = 1 if arguments.small else arguments.rounds
    folder = Path(tempfile.mkdtemp(prefix="thinkless-bench-"))
    try:
        shape = RandomModelConf() if arguments.small else WIDE
        wide, quick = model_folder(folder / "wide", shape), model_folder(folder / "quick", RandomModelConf())
        batch = as_batch(ragged_groups(1, *((20, 60) if arguments.small else (190, 1000)), (16, 64)), LEARNER)
        say(f"{sum(sum(mb.lengths) for mb in batch.ranks[0]):,} tokens an update")
        with Cluster(ClusterConf(object_store_gib=2.0)) as cluster:
            learner = started(cluster, wide)
            shares(learner, batch, rounds, "")
            cluster.release(learner.ranks)
            learner = started(cluster, quick)
            batch = as_batch(quickstart_groups(load_tokenizer(quick, ModelConf())), LEARNER)
            shares(learner, batch, rounds, "_quickstart")
            figure("restart_seconds", restart(learner, batch), "s")
        share = saving_share(folder, 4 if arguments.small else 40)
        figure("saving_share", share, "share", 0.02)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
