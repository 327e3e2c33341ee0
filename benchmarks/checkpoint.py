"""What a checkpoint costs: training that goes on beside it, and DeepSpeed's own format. Figures are JSON lines on
stdout, logs go to stderr.

    save_beside_call_s       of a save beside training: the learner's state is copied, which is all that blocks
    save_at_once_s           of one that is waited for, with digests, manifest and fsync
    save_beside_vs_at_once   their ratio
    save_beside_of_a_step    save_beside_call_s over a step's seconds, of this model and batch
    save_beside_processor_s  processor time that the process takes more for the steps beside it than for others
    save_vs_deepspeed        seconds of save_checkpoint and an fsync of its files over those of save_at_once_s
    load_vs_deepspeed        seconds of load_checkpoint over those of verifying and loading ours
    load_alone_vs_deepspeed  the same without verifying
    bytes_vs_deepspeed       bytes of ours over those of DeepSpeed's

One learner rank, ZeRO-1, 50 M random float32 parameters, on one thread; the sides take turns, ratios are medians of
rounds. What was written is in the page cache when it is loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not the benchmark beside this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from benchmarks._learner.setup import GRPO, as_batch, model_folder, ragged_groups, started_worker
from conf.schema import LearnerConf, RandomModelConf
from learner.written import Written
from orchestrator.training import manifest
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.retention import Retention

SHAPE = RandomModelConf(hidden_size=512, layers=12, heads=8, kv_heads=8, ffn_size=2048)
STEPS = 2  # that are timed together


class OneRank:
    """A learner of one rank in this process."""

    def __init__(self, worker: Any):
        self.worker = worker

    def save(self, folder: str) -> Written:
        written: Written = self.worker.save(folder)
        return written

    def begin_save(self, folder: str) -> None:
        self.worker.save(folder, True)

    def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None:
        written: Written | None = self.worker.saved(whole)
        return written


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def synced(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def measure(folder: Path, small: bool) -> dict[str, list[float]]:
    conf = LearnerConf(threads=1, lr=1e-5, zero_stage=1)
    worker = started_worker(model_folder(folder / "model", RandomModelConf() if small else SHAPE), conf)
    batch = as_batch(ragged_groups(1, 20, 60, (8, 12)), conf)
    learner, store, theirs = OneRank(worker), CheckpointStore(folder, Retention(1)), worker.engine.deepspeed
    say(f"{sum(p.numel() for p in worker.engine.policy.parameters()):,} parameters, {batch.tokens} tokens a step")

    def steps() -> None:
        for _ in range(STEPS):
            worker.update([batch.ranks[0]], GRPO)
            store.collect(whole=False)

    steps()
    store.save(1, learner, {})  # the folder, the copy's memory and the page cache are there afterwards
    store.begin(2, learner, {})
    found: dict[str, list[float]] = {}
    for nth in range(1 if small else 3):
        store.collect()
        call = seconds(lambda step=3 + 2 * nth: store.begin(step, learner, {}))  # type: ignore[misc]
        used = [time.process_time()]
        beside = seconds(steps)
        store.collect()
        used.append(time.process_time())
        alone = seconds(steps)
        used.append(time.process_time())
        at_once = seconds(lambda step=4 + 2 * nth: store.save(step, learner, {}))  # type: ignore[misc]
        saved = store.latest()
        assert saved is not None

        def deepspeed() -> None:
            theirs.save_checkpoint(str(folder / "deepspeed"), tag="one")
            synced(folder / "deepspeed")

        shutil.rmtree(folder / "deepspeed", ignore_errors=True)
        their_save = seconds(deepspeed)
        verify = seconds(lambda path=saved[0]: manifest.damage(path))  # type: ignore[misc]
        load = seconds(lambda path=saved[0]: worker.load(str(path)))  # type: ignore[misc]
        their_load = seconds(lambda: theirs.load_checkpoint(str(folder / "deepspeed"), tag="one"))
        theirs.optimizer._hp_optimizer_states_linked = False  # loading has unlinked them, and not said so
        say(
            f"a step {alone / STEPS:.2f} s, {beside / STEPS:.2f} beside a save whose call took {call:.2f} s; at once "
            f"{at_once:.2f} s, DeepSpeed {their_save:.2f}; verified in {verify:.2f} and loaded in {load:.2f} s, "
            f"DeepSpeed {their_load:.2f} (load {os.getloadavg()[0]:.1f})"
        )
        for name, value in {
            "save_beside_call_s": call,
            "save_at_once_s": at_once,
            "save_beside_vs_at_once": call / at_once,
            "save_beside_of_a_step": call / (alone / STEPS),
            "save_beside_processor_s": (used[1] - used[0]) - (used[2] - used[1]),
            "save_vs_deepspeed": their_save / at_once,
            "load_vs_deepspeed": their_load / (verify + load),
            "load_alone_vs_deepspeed": their_load / load,
            "bytes_vs_deepspeed": size(saved[0]) / size(folder / "deepspeed"),
        }.items():
            found.setdefault(name, []).append(value)
    worker.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_small(parser)
    arguments = parser.parse_args()
    figures_only()
    if arguments.small:
        without_goals()
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder:
        found = measure(Path(folder), arguments.small)
    for name, values in found.items():
        figure(name, statistics.median(values), "s" if name.endswith("_s") else "ratio")


if __name__ == "__main__":
    main()
