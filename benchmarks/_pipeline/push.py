"""A push of 1 GB of bfloat16 weights to two workers on one host, and of the quickstart's model.

Sides take turns within one run, after a warm-up, so that what else the machine does falls on all. Figures, one JSON
line each on stdout (what led to them on stderr):

    push_vs_memcpy           the transport alone, from the learner's tensors to readable in both workers (each has
                             touched every page), over one memory copy of the same bytes by the learner's process;
                             goal 2.5
    push_transport_seconds, memcpy_seconds
    push_vs_reload           the whole push (both engines have the weights) over the slower of two simultaneous reloads
                             of the same weights from each engine's own memory; goal 1.5
    push_whole_seconds, reload_seconds
    push_quickstart_ms       the whole push of the quickstart's model to one worker; goal 100

--transport ipc measures the memory file of CPU hosts instead of the object store (without the transport alone).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` and others are rooms, not files here
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks._figures import add_small, figure, say, without_goals
from conf.schema import ClusterConf, Dtype, LearnerConf, ModelConf, RandomModelConf, RolloutConf, Transport
from learner.learner import Learner
from learner.worker import LearnerWorker
from rollout.mode import ControlTokens
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.weight_sync.sync import WeightSync
from rollout.weight_sync.weights import Route, Weights
from rollout.worker import RolloutWorker

ROOT = Path(sys.path[0])
PAGE = 4096
CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=16)


def large_model(folder: Path) -> str:
    """Random weights in Qwen2.5-0.5B's shape: 494 M parameters, 988 MB, tied."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = Qwen2Config(
        hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
        vocab_size=151_936, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)


def small_model(folder: Path) -> str:
    """The quickstart's."""
    from learner.model.prepare_model import random_model

    return random_model(folder, RandomModelConf(), ModelConf(), 0)


class Rank(LearnerWorker):
    """A learner rank that can also copy its weights' bytes once."""

    def memcpy(self) -> float:
        """Seconds of one copy of all bytes into memory whose pages are there."""
        weights = self.publish(0)
        assert weights is not None
        if not hasattr(self, "target"):
            self.target = np.ones(weights.size, np.uint8)
        begin, end = time.perf_counter(), 0
        for buffer in weights.buffers:
            self.target[end : end + len(buffer)] = buffer
            end += len(buffer)
        return time.perf_counter() - begin


class Reader:
    """A worker without an engine."""

    def ready(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def load(self, weights: Weights) -> float:
        """Touch every page of the weights."""
        begin = time.perf_counter()
        for buffer in weights.buffers:
            buffer[::PAGE].sum()
        return time.perf_counter() - begin


class Engined(RolloutWorker):
    """A rollout worker that can also load weights which lie in its own memory."""

    def keep(self, weights: Weights) -> int:
        self.kept = weights.copy()
        return self.kept.size

    def reload(self) -> float:
        return self.load(self.kept)


def started_rank(cluster: Any, path: str, model: ModelConf, conf: LearnerConf) -> Any:
    (rank,) = cluster.learner_ranks(conf, Rank, [[conf, model, path, 0, 1.0, 1]])
    Learner([rank], conf).start(None, reference=False)
    return rank


def pushed(weight_sync: WeightSync, version: int) -> float:
    """Seconds of a whole push."""
    begin = time.perf_counter()
    weight_sync.start(version)
    return time.perf_counter() - begin


def compared(name: str, push: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, ...]:
    """(median ratio, median seconds of the push, of the other side); the first two rounds are warm-up."""
    pairs = []
    for turn in range(rounds + 2):
        base, mine = other(), push()
        load = os.getloadavg()[0]
        say(f"{name}, round {turn}: push {mine:.3f} s, other {base:.3f} s (load {load:.1f})")
        pairs.append((mine / base, mine, base))
    return tuple(statistics.median(column) for column in zip(*pairs[2:], strict=True))


def large_push(rounds: int, transport: Transport, small: bool) -> dict[str, float]:
    """push_vs_memcpy, push_vs_reload and what they are made of. small: the quickstart's model, one worker, and
    push_quickstart_ms from the same."""
    from orchestrator.cluster.cluster import Cluster, started
    from orchestrator.cluster.handles import wait_all

    model = ModelConf(dtype=Dtype.bfloat16)
    conf = LearnerConf(zero_stage=1)
    rollout = RolloutConf(workers=1 if small else 2, kv_cache_gib=0.25, max_num_batched_tokens=4096)
    found: dict[str, float] = {}
    route = Route(transport, rollout.workers)
    with (
        tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder,
        Cluster(ClusterConf(object_store_gib=0.5 if small else 4.0)) as cluster,
    ):
        path = (small_model if small else large_model)(Path(folder))
        rank = started_rank(cluster, path, model, conf)
        if transport is Transport.object_store:
            readers = cluster.rollout_workers(rollout, Reader, [])
            started(readers, "ready", 60.0)
            light = WeightSync([rank], Sampler(readers, SAMPLING), True, wait_all)
            ratio, mine, copy = compared(
                "transport alone", lambda: pushed(light, 1), lambda: rank.call("memcpy").wait(), rounds
            )
            found |= {"push_vs_memcpy": ratio, "push_transport_seconds": mine, "memcpy_seconds": copy}
            cluster.release(readers)

        workers = cluster.rollout_workers(rollout, Engined, [rollout, model, path, CONTROL, 0])
        started(workers, "ready", rollout.start_timeout_s)
        weight_sync = WeightSync([rank], Sampler(workers, SAMPLING), True, wait_all, route)
        weights = rank.call("publish", 1)
        wait_all([worker.call("keep", weights) for worker in workers])
        del weights

        def reload() -> float:
            return max(wait_all([worker.call("reload") for worker in workers]))

        ratio, mine, base = compared("whole push", lambda: pushed(weight_sync, 2), reload, rounds)
        found |= {"push_vs_reload": ratio, "push_whole_seconds": mine, "reload_seconds": base}
        if small:
            found["push_quickstart_ms"] = push_ms(weight_sync, 1)
    return found


def small_push(pushes: int, transport: Transport) -> float:
    """Median milliseconds of a push of the quickstart's model."""
    from orchestrator.cluster.cluster import Cluster, started
    from orchestrator.cluster.handles import wait_all

    rollout, route = RolloutConf(), Route(transport, 1)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder, Cluster(ClusterConf()) as cluster:
        path = small_model(Path(folder))
        rank = started_rank(cluster, path, ModelConf(), LearnerConf())
        workers = cluster.rollout_workers(rollout, RolloutWorker, [rollout, ModelConf(), path, CONTROL, 0])
        started(workers, "ready", rollout.start_timeout_s)
        return push_ms(WeightSync([rank], Sampler(workers, SAMPLING), True, wait_all, route), pushes)


def push_ms(weight_sync: WeightSync, pushes: int) -> float:
    """Median of `pushes`, after three."""
    seconds = [pushed(weight_sync, version) for version in range(3, pushes + 6)][3:]
    say("quickstart, ms: " + " ".join(f"{1000 * each:.0f}" for each in seconds))
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of each comparison (7)")
    parser.add_argument("--pushes", type=int, default=20, help="pushes of the quickstart's model (20)")
    parser.add_argument("--transport", type=Transport, default=Transport.object_store, choices=list(Transport)[1:3])
    parser.add_argument("--only", choices=["large", "quickstart"], help="one of the two models")
    add_small(parser)
    arguments = parser.parse_args()
    os.chdir(ROOT)  # Ray gives its workers the driver's folder to import from
    if arguments.small:
        without_goals()
        arguments.rounds = 1
    found: dict[str, float] = {}
    if arguments.only != "quickstart":
        found = large_push(arguments.rounds, arguments.transport, arguments.small)
        if "push_vs_memcpy" in found:
            figure("push_vs_memcpy", found["push_vs_memcpy"], "ratio of seconds", 2.5)
            figure("push_transport_seconds", found["push_transport_seconds"], "s")
            figure("memcpy_seconds", found["memcpy_seconds"], "s")
        figure("push_vs_reload", found["push_vs_reload"], "ratio of seconds", 1.5)
        figure("push_whole_seconds", found["push_whole_seconds"], "s")
        figure("reload_seconds", found["reload_seconds"], "s")
    if arguments.only != "large":
        in_ms = found.get("push_quickstart_ms") or small_push(arguments.pushes, arguments.transport)
        figure("push_quickstart_ms", in_ms, "ms", 100.0)


if __name__ == "__main__":
    main()
