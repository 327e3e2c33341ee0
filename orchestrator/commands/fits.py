"""Refuses, before anything is started, sizes that this machine cannot hold.

In: a configuration, the model's config.json. Out: nothing, or BadInput. Must not know: Ray, torch, models' files.

Counted is what is sure to be taken, so that what is refused cannot run: of a sampler on a CPU its weights, its cache,
its table of sequences (4 bytes for each of max_num_seqs x max_model_len tokens) and its process; of a learner rank on
one, weights, gradients and optimizer, and of any the copy from which checkpoints are written; of others their
processes. Ray's store may go to the disk as well. On a Ray that is joined, hosts and memory are others: there vLLM and
Ray say it themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conf.choices import Device
from conf.chosen import saves_beside
from conf.schema import Config
from learner.data.flops import shape_of
from learner.metrics.memory_plan import kv_bytes, learner_memory
from orchestrator.cluster.local_rays import temporary_folder
from orchestrator.cluster.object_store import GIB, machine_memory, needed, weight_bytes
from orchestrator.cluster.placement import plan
from orchestrator.commands.preflight import samples
from orchestrator.plan.model_shape import CHARACTERS
from rollout.base.errors import BadInput

SAMPLER_PROCESS, LEARNER_PROCESS, REWARD_PROCESS, GRADING_PROCESS = 0.5e9, 0.3e9, 0.04e9, 0.01e9  # bytes, at least


def refuse_too_large(conf: Config, command: str, config: Mapping[str, Any] | None, evaluated: int = 0) -> None:
    """command: "train", "warmup" or "evaluate"; evaluated: as `orchestrator.cluster.object_store.needed` takes it."""
    if conf.cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    _refuse_few_cpus(conf, command)
    memory = machine_memory()
    config = {"vocab_size": CHARACTERS, **config} if config else None
    if samples(conf, command):
        _refuse_small_cache(conf, config)
    parts = _parts(conf, command, config)
    if sum(parts.values()) > memory:
        raise BadInput(
            f"this machine has {memory / GIB:,.1f} GiB of memory, and this run takes {sum(parts.values()) / GIB:,.1f} "
            f"or more: {_listed(parts)}; lower these, or join a larger Ray (cluster.address)"
        )
    if command != "warmup" or samples(conf, command):
        _refuse_large_store(conf, needed(conf, config, evaluated, command == "train"), memory, evaluated)


def _refuse_large_store(conf: Config, need: float, memory: float, evaluated: int) -> None:
    """Ray's object store is in memory, and moves to the disk what does not fit."""
    asked, rollout, folder = conf.cluster.object_store_gib, conf.rollout, temporary_folder()
    if not folder.is_dir():
        return  # Ray cannot start there, which is said when it is to
    disk = shutil.disk_usage(folder).free
    if (asked * GIB if asked else need) <= memory + disk:
        return
    said = f"cluster.object_store_gib={asked:g} is" if asked else (
        f"rollout.prompts_per_step={rollout.prompts_per_step} x rollout.group_size={rollout.group_size} answers of "
        f"rollout.max_response_tokens={rollout.max_response_tokens}, in 1 + run.max_staleness={conf.run.max_staleness} "
        f"batches, and {evaluated} answers of an evaluation take {need / GIB:,.1f} GiB,"
    )  # fmt: skip
    raise BadInput(
        f"{said} more than this machine's memory ({memory / GIB:,.1f} GiB) and the disk of {folder} "
        f"({disk / GIB:,.1f} GiB free) hold; lower these, or join a larger Ray (cluster.address)"
    )


def _refuse_few_cpus(conf: Config, command: str) -> None:
    """A private Ray has the CPUs of this machine, at most."""
    every = plan(
        conf.cluster.placement,
        conf.rollout if samples(conf, command) else None,
        conf.learner if command == "train" else None,
        conf.reward if command == "train" else None,
    )
    need, have = every.needs("CPU"), os.cpu_count() or 1
    if need > have + 1e-6:
        listed = " + ".join(f"{key}={count} of {each:g}" for key, (count, each) in every.parts("CPU").items())
        raise BadInput(
            f"{listed} = {need:g} CPUs do not fit, this machine has {have}; lower one of them, or its num_cpus, or "
            "join a larger Ray (cluster.address)"
        )


def _refuse_small_cache(conf: Config, config: Mapping[str, Any] | None) -> None:
    """vLLM does not start when its cache cannot hold the longest sequence."""
    shape, rollout = shape_of(config) if config else None, conf.rollout
    if shape is None or rollout.device is not Device.cpu:
        return
    each = kv_bytes(config or {}, conf.model.dtype) / rollout.tensor_parallel
    if each * rollout.max_model_len > rollout.kv_cache_gib * GIB:
        raise BadInput(
            f"rollout.kv_cache_gib={rollout.kv_cache_gib:g} holds {int(rollout.kv_cache_gib * GIB / each)} tokens, "
            f"less than one sequence of rollout.max_model_len={rollout.max_model_len}: set it to "
            f"{each * rollout.max_model_len / GIB:.2g} or more"
        )


def _parts(conf: Config, command: str, config: Mapping[str, Any] | None) -> dict[str, float]:
    """Bytes at least, by the settings that they follow from."""
    rollout, reward, found = conf.rollout, conf.reward, {}
    weights = weight_bytes(config, conf.model.dtype) if config else 0
    if samples(conf, command):
        each = SAMPLER_PROCESS
        said = f"rollout.workers={rollout.workers}"
        if rollout.device is Device.cpu:
            table = 4 * rollout.max_num_seqs * rollout.max_model_len
            each += weights + rollout.kv_cache_gib * GIB + table
            said += f" with rollout.kv_cache_gib={rollout.kv_cache_gib:g}, rollout.max_num_seqs={rollout.max_num_seqs} "
            said += f"of rollout.max_model_len={rollout.max_model_len}"
        found[said] = rollout.workers * each
        found[f"reward.workers={reward.workers} with reward.processes={reward.processes}"] = reward.workers * (
            REWARD_PROCESS + reward.processes * GRADING_PROCESS
        )
    if command != "evaluate":
        ranks = conf.warmup.ranks or conf.learner.ranks if command == "warmup" and conf.warmup else conf.learner.ranks
        states, copies = _states(conf, config, ranks)
        found[f"learner.ranks={ranks}"] = ranks * (LEARNER_PROCESS + states)
        if command == "train" and saves_beside(conf.run):
            found["run.save_in_background=true"] = copies
    return found


def _states(conf: Config, config: Mapping[str, Any] | None, ranks: int) -> tuple[float, float]:
    """Of a learner rank, in the host's memory; copies of all ranks for a checkpoint."""
    if config is None or conf.model.lora.rank:
        return 0.0, 0.0
    try:
        found = learner_memory(config, replace(conf.learner, ranks=ranks), conf.model.dtype, reference=False)
    except ValueError:  # no plain decoder: not known
        return 0.0, 0.0
    return found.host + float(found.states if conf.learner.device is Device.cpu else 0), float(found.copies)


def _listed(parts: Mapping[str, float]) -> str:
    """The largest first, without those below a hundredth of all."""
    whole = sum(parts.values())
    chosen = sorted(((size, name) for name, size in parts.items() if size > whole / 100), reverse=True)
    return ", ".join(f"{name} {size / GIB:,.1f} GiB" for size, name in chosen)
