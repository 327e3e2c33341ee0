"""The learner's gradients under every layout (ranks, ZeRO stages, packing) against a float64 reference.

In: nothing but `small`. Out: the worst tensor's error. Must not know: speeds, how the reference does it
(reference.py).
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._figures import figure, say
from benchmarks._learner.setup import model_folder, ragged_groups
from conf.schema import AlgorithmConf, LearnerConf, ModelConf, RandomModelConf
from learner.data.pack import pack
from learner.objective import optimizer_steps

Layout = tuple[dict[str, Any], str, int]  # changes to LearnerConf, model, micro-batch budget
MEMORY_SETTINGS: list[dict[str, Any]] = [  # they trade time for memory, and change no gradient
    {"gradient_checkpointing": True},
    {"zero_stage": 3, "gradient_checkpointing": True},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    {"logprob_chunk": 1},
    {"logprob_chunk": 4096},
]
SPEED_SETTINGS: list[dict[str, Any]] = [  # other ways to the same gradient and the same weights
    {"fused_head": False},
    {"fused_adamw": True},
    {"zero_stage": 2, "overlap_comm": True, "fused_adamw": True},
    {"zero_stage": 3, "overlap_comm": True, "fused_adamw": True},
]
SMALL: list[Layout] = [
    ({"ranks": 2, "zero_stage": 3, "gradient_checkpointing": True}, "untied", 80),
    ({"ranks": 2, "sequence_parallel": 2, "zero_stage": 2}, "tied", 4096),
]


def layouts() -> Iterator[Layout]:
    budgets = (32, 80, 4096)  # one sequence a row, a few, all
    for ranks, stage, model in itertools.product((1, 2), (0, 1, 2, 3), ("tied", "untied")):
        for budget in budgets:
            yield {"ranks": ranks, "zero_stage": stage}, model, budget
    for changes in MEMORY_SETTINGS + SPEED_SETTINGS:
        yield {"ranks": 2, **changes}, "untied", 80
    for stage, model, budget in itertools.product((0, 2, 3), ("tied", "untied"), budgets):
        yield {"ranks": 2, "sequence_parallel": 2, "zero_stage": stage}, model, budget


class Ranks:
    """Learner ranks in processes that stay, in each of which a worker can be started anew."""

    def __init__(self, count: int):
        spawn = multiprocessing.get_context("spawn")
        self.processes = [ProcessPoolExecutor(1, spawn) for _ in range(count)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self, conf: LearnerConf, path: str, reference: str) -> None:
        self.all(_start, [(conf, path, rank, reference, self.port) for rank in range(len(self.processes))])

    def all(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        """`function` with each rank's own arguments, at the same time."""
        answers = [process.submit(function, *own) for process, own in zip(self.processes, arguments, strict=True)]
        return [answer.result() for answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.shutdown()


_workers: list[Any] = []  # of a rank's process: its worker


def _start(conf: LearnerConf, path: str, rank: int, reference: str, port: int) -> None:
    from benchmarks._learner.reference import TEMPERATURE
    from learner.model.policy import load_policy
    from learner.worker import LearnerWorker

    _workers.clear()
    gc.collect()
    worker = LearnerWorker(conf, ModelConf(), path, rank, TEMPERATURE, 10)
    worker.start("127.0.0.1", port, True)
    worker.reference = load_policy(reference, "float32").requires_grad_(False)  # other weights than the policy's
    _workers.append(worker)


def _gradients(share: Any, algorithm: AlgorithmConf) -> Any:
    from benchmarks._learner.gradients import gradients

    return gradients(_workers[0], [share], algorithm)


def gradient(small: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    from benchmarks._learner import reference as float64

    shape = RandomModelConf(hidden_size=32, layers=2, heads=4, kv_heads=4, ffn_size=48, init_std=0.15)
    still = LearnerConf(lr=0.0, weight_decay=0.0, logprob_chunk=7)
    algorithm = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
    groups = ragged_groups(4, 8.0, 24, (1, 9))
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        folders = {"tied": model_folder(Path(scratch) / "tied", shape, 3)}
        folders["untied"] = model_folder(Path(scratch) / "untied", replace(shape, kv_heads=2), 4)
        config = AutoModelForCausalLM.from_pretrained(folders["untied"]).config
        config.tie_word_embeddings = False
        torch.manual_seed(5)
        Qwen2ForCausalLM(config).save_pretrained(folders["untied"])
        reference = {"tied": model_folder(Path(scratch) / "other", shape, 5), "untied": folders["tied"]}
        wanted = {
            name: float64.gradient(folder, reference[name], groups, algorithm) for name, folder in folders.items()
        }
        ((sequences, totals),) = optimizer_steps(groups, algorithm)
        worst, count, made = 0.0, 0, dict[int, Ranks]()
        try:
            running = None
            for changes, model, budget in SMALL if small else layouts():
                conf = replace(still, **changes)
                if conf.ranks not in made:
                    made[conf.ranks] = Ranks(conf.ranks)
                ranks = made[conf.ranks]
                if (changes, model) != running:
                    ranks.start(conf, folders[model], reference[model])
                    running = (changes, model)
                batch = pack(sequences, totals, budget, conf.ranks // conf.sequence_parallel)
                shares = [batch.ranks[rank // conf.sequence_parallel] for rank in range(conf.ranks)]
                got = ranks.all(_gradients, [(share, algorithm) for share in shares])[0]
                errors = {name: float64.relative_error(got[name], want) for name, want in wanted[model].items()}
                name = max(errors, key=errors.__getitem__)
                if errors[name] > worst:
                    worst = errors[name]
                    say(f"gradient: {worst:.2e} in {name} of {model} at {changes}, {budget} tokens a micro-batch")
                count += 1
        finally:
            for ranks in made.values():
                ranks.close()
    say(f"gradient: {count} layouts")
    figure("gradient_max_rel_error", worst, "relative L2 error of a tensor", 1e-5)
