"""What supervision is worth, and what it costs. Figures are JSON lines on stdout, logs go to stderr.

    restart_vs_cold_start    from a sampler's death (kill -9) to the end of a batch that it was given, over the same
                             from the start of a new one; median of pairs that take turns; goal 1.5
    restart_seconds, cold_start_seconds
    watchdog_share           processor time of both watchdogs, in the driver and in the actor that they ask, over the
                             time that passes; goal 0.02

The model is the quickstart's, on one worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from conf.schema import ClusterConf, ModelConf, RandomModelConf, RolloutConf
from learner.model.prepare_model import random_model
from orchestrator.base.processes import Family
from orchestrator.cluster.actor_watch import EVERY_S as ACTORS_EVERY_S
from orchestrator.cluster.actor_watch import Heart
from orchestrator.cluster.cluster import Cluster, started
from orchestrator.cluster.handles import RayHandle
from orchestrator.cluster.ray_watch import EVERY_S, FAMILY_EVERY
from rollout.mode import ControlTokens
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.worker import RolloutWorker

CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=64)
LOOKS = 50  # of the watchdogs, for their cost


def batch(worker: RayHandle) -> float:
    """Seconds of 16 prompts with 8 answers each."""
    prompts = [Prompt(f"q{i}", "?", np.array([10 + i, 11, 12], np.int32), "1", "arithmetic") for i in range(16)]
    begin = time.monotonic()
    Sampler([worker], SAMPLING).sample(prompts, 8, 0).wait()
    return time.monotonic() - begin


def pair(cluster: Cluster, conf: RolloutConf, path: str) -> tuple[float, float]:
    """Seconds of (a cold start, a restart), each with a batch."""
    begin = time.monotonic()
    workers = cluster.rollout_workers(conf, RolloutWorker, [conf, ModelConf(), path, CONTROL, 0])
    started(workers, "ready", conf.start_timeout_s)
    batch(workers[0])
    cold = time.monotonic() - begin
    say(f"cold start {cold:.1f} s, of which a batch takes {batch(workers[0]):.1f} s")
    place = workers[0].place()
    assert place is not None
    os.kill(place[1], signal.SIGKILL)
    again = batch(workers[0])
    say(f"restart {again:.1f} s (load {os.getloadavg()[0]:.1f})")
    cluster.release(workers)
    return cold, again


def share(actor: RayHandle) -> float:
    """Processor seconds a second: the process tree is looked at every few seconds, Ray's two processes twice a second,
    each actor every few seconds."""
    family, heart = Family(), Heart(actor)
    begin = time.process_time()
    for _ in range(LOOKS):
        family.look()
    looked = (time.process_time() - begin) / LOOKS / (EVERY_S * FAMILY_EVERY)
    before: Any = actor.call("__ray_call__", _processor_time).wait()
    begin = time.process_time()
    for _ in range(LOOKS):
        heart.look(0.0)
        time.sleep(0.02)
    here = time.process_time() - begin
    there = actor.call("__ray_call__", _processor_time).wait() - before
    return looked + (here + there) / LOOKS / ACTORS_EVERY_S


def _processor_time(_: Any) -> float:
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    add_small(parser)
    arguments = parser.parse_args()
    figures_only()
    if arguments.small:
        without_goals()
    conf = RolloutConf(workers=1, kv_cache_gib=0.25, max_num_batched_tokens=4096, max_restarts=1)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder, Cluster(ClusterConf()) as cluster:
        path = random_model(Path(folder), RandomModelConf(), ModelConf(), 0)
        pairs = [pair(cluster, conf, path) for _ in range(1 if arguments.small else arguments.pairs)]
        (idle,) = cluster.rollout_workers(conf, RolloutWorker, [conf, ModelConf(), path, CONTROL, 0])
        started([idle], "ready", conf.start_timeout_s)
        cost = share(idle)
    figure("restart_vs_cold_start", statistics.median(again / cold for cold, again in pairs), "ratio", 1.5)
    figure("restart_seconds", statistics.median(again for _, again in pairs), "s")
    figure("cold_start_seconds", statistics.median(cold for cold, _ in pairs), "s")
    figure("watchdog_share", cost, "share", 0.02)


if __name__ == "__main__":
    main()
