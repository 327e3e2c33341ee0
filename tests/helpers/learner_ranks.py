"""Real learner ranks, each a process of its own, in one gloo process group.

The process group lives as long as its processes; the `LearnerWorker` (model, engine) in them can be started anew.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from conf.schema import AlgorithmConf, LearnerConf, ModelConf
from learner.data.batch import TrainBatch
from learner.data.pack import pack
from learner.objective import optimizer_steps
from tests.helpers import naive

ANSWER_S = 600.0  # a rank that answers later hangs; far above what a busy machine needs


def train_batch(seed: int, ranks: int, algorithm: AlgorithmConf, max_tokens: int = 60) -> TrainBatch:
    """The first optimizer step of some random groups."""
    sequences, totals = optimizer_steps(naive.some_groups(seed), algorithm)[0]
    return pack(sequences, totals, max_tokens, ranks)


class Ranks:
    """`count` ranks; every method calls all of them and returns their answers in rank order."""

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.count, self.pipes, self.processes = count, [], []
        self.sharing = 1  # ranks that share a micro-batch (sequence parallelism)
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def start(
        self,
        conf: LearnerConf,
        path: str,
        reference: str | None = None,
        temperature: float = 0.6,
        total: int = 10,
        model: ModelConf | None = None,
    ) -> int:
        """A new worker on every rank; reference: folder of the frozen reference model. Returns its parameters."""
        self.sharing = conf.sequence_parallel
        return self.each(_start, conf, model or ModelConf(), path, reference, temperature, total, self.port)[0]

    def call(self, method: str, *args: Any) -> list[Any]:
        return self.each(call_worker, method, *args)

    def scatter(self, method: str, steps: list[TrainBatch], *args: Any) -> list[Any]:
        """Call `method` with each rank's share of every step."""
        shares = [[step.ranks[r // self.sharing] for step in steps] for r in range(self.count)]
        return self.ask([(call_worker, (method, share, *args)) for share in shares])

    def gradients(self, steps: list[TrainBatch], algorithm: AlgorithmConf) -> list[dict[str, Any]]:
        """Of the last optimizer step of an update with these steps; f32 arrays by name, the same on every rank."""
        shares = [[step.ranks[r // self.sharing] for step in steps] for r in range(self.count)]
        return self.ask([(_gradients, (share, algorithm)) for share in shares])

    def each(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(state, *args)` in every rank; state["worker"] is its worker."""
        return self.ask([(function, args)] * self.count)

    def digests(self) -> list[str]:
        """A hash of each rank's whole weights: equal when they are bitwise the same."""
        return self.each(_digest)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()

    def ask(self, messages: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        for pipe, message in zip(self.pipes, messages, strict=True):
            pipe.send(message)
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(ANSWER_S):
                raise TimeoutError(f"rank {rank} of {self.count} gives no answer")
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _serve(pipe: Connection, rank: int) -> None:
    state: dict[str, Any] = {"rank": rank}
    while (message := pipe.recv()) is not None:
        function, args = message
        try:
            pipe.send(function(state, *args))
        except Exception as error:
            pipe.send(error)
    if "worker" in state:
        state["worker"].close()


def _start(
    state: dict[str, Any],
    conf: LearnerConf,
    model: ModelConf,
    path: str,
    reference: str | None,
    temperature: float,
    total: int,
    port: int,
) -> int:
    from learner.model.policy import load_policy
    from learner.worker import LearnerWorker

    state.pop("worker", None)
    gc.collect()
    worker = LearnerWorker(conf, model, path, state["rank"], temperature, total)
    parameters = worker.start("127.0.0.1", port, reference is not None)
    if reference not in (None, path):  # as a run's policy and reference after some updates: different weights
        worker.reference = load_policy(reference, model.dtype.value).requires_grad_(False)
    state["worker"] = worker
    return parameters


def call_worker(state: dict[str, Any], method: str, *args: Any) -> Any:
    return getattr(state["worker"], method)(*args)


def _gradients(state: dict[str, Any], share: list[Any], algorithm: AlgorithmConf) -> Any:
    from benchmarks._learner.gradients import gradients

    return gradients(state["worker"], share, algorithm)


def _digest(state: dict[str, Any]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in state["worker"].engine.parameters():
        whole = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(name.encode() + whole.numpy().tobytes())
    return digest.hexdigest()


def held(state: dict[str, Any]) -> dict[tuple[str, str, int], Any]:
    """What a rank's optimizer holds: f32 arrays by kind, parameter and first place."""
    engine = state["worker"].engine
    return {
        (kind, one.name, one.first): values.detach().cpu().numpy().copy()
        for one in engine._state().fragments()
        for kind, values in one.tensors()
    }


def joined(ranks: list[dict[tuple[str, str, int], Any]]) -> dict[str, Any]:
    """Those of all ranks as whole flat arrays, by kind and parameter; where several hold the same, once."""
    import numpy as np

    parts: dict[str, dict[int, Any]] = {}
    for rank in ranks:
        for (kind, name, first), values in rank.items():
            parts.setdefault(f"{kind}/{name}", {})[first] = values
    return {key: np.concatenate([values for _, values in sorted(found.items())]) for key, found in parts.items()}


def awake_bytes(state: dict[str, Any]) -> int:
    """Memory of every tensor that Python knows of in this process, but for the host copies of what rests."""
    import warnings

    import torch

    gc.collect()
    offloaded = state["worker"].engine.offloader._offloaded.values() if "worker" in state else ()
    homes = {one.copy.data_ptr() for one in offloaded if one.copy is not None}
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at some of torch's own objects is deprecated
        for one in gc.get_objects():
            kept = type(one) in (torch.Tensor, torch.nn.Parameter) and one.layout is torch.strided
            if kept and one.device.type == "cpu":
                storage = one.untyped_storage()
                if storage.data_ptr() not in homes:
                    found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def left_by_others(state: dict[str, Any]) -> int:
    """End this process's worker; what tensors take now are those of earlier ones (DeepSpeed lets few of them go)."""
    if "worker" in state:
        state.pop("worker").offload("all")
    return awake_bytes(state)
