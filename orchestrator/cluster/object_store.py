"""How large Ray's object store has to be for a run, and lines that say where it is not.

In: configuration, the model's config.json. Out: bytes; settings with cluster.object_store_gib computed. Must not know:
Ray, torch, what is done with the arrays.

In the store lie, at the longest answers:

    results         12 bytes a response token (`rollout.request.RolloutResult`: id, log-prob, version), of all batches
                    in flight, dynamic sampling's rounds among them; read in place, so they stay while their step lasts
    validation      the same, of one validation or evaluation, which may come while batches are in flight
    micro-batches   38 bytes a token, prompts included (`learner.data.batch.MicroBatch`), of one step; with sequence
                    parallelism for each rank that shares them
    weights         two versions, where they go through it (cluster.transport=object_store, or rollout.max_restarts)
    state           of the learner: two copies, where it may start again (learner.max_restarts), 12 bytes a weight that
                    is learnt (float32 and AdamW's moments; adapters are few, and not counted)
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.choices import Dtype, Transport
from conf.schema import ClusterConf, Config
from learner.data.flops import shape_of
from rollout.weight_sync.weights import route

RESULT_BYTES, ROW_BYTES = 12, 38  # of a token, see above
SPARE = 1.1  # norms and biases, verdicts, prompts, fragmentation
LEAST_GIB = 0.5  # where a run needs less, or nothing is known about it
GIB = 2**30
SHM = Path("/dev/shm")
SHM_SHARE, MEMORY_SHARE = 0.9, 0.5  # of what is free in SHM, and of the memory, that a computed size takes at most
FILE_GIB = 9.31  # 10^10 bytes: above it Ray does not start when its store does not fit into SHM
SLOW_ALLOWED = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"  # lifts that limit
CGROUP = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")]


def needed(conf: Config, config: Mapping[str, Any] | None = None, evaluated: int = 0, training: bool = True) -> int:
    """Bytes. config: of the model (config.json), None: unknown, its weights are left out; evaluated: responses of the
    largest validation or evaluation; training: whether there are batches and weights besides."""
    evaluation = RESULT_BYTES * evaluated * (conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens)
    return int(SPARE * (evaluation + (_steps(conf, config) if training else 0)))


def _steps(conf: Config, config: Mapping[str, Any] | None) -> float:
    rollout, dynamic = conf.rollout, conf.rollout.dynamic_sampling
    responses = rollout.prompts_per_step * rollout.group_size
    batches = 1 + conf.run.max_staleness + dynamic.rounds * dynamic.factor
    results = RESULT_BYTES * responses * batches * rollout.max_response_tokens
    row = conf.data.max_prompt_tokens + rollout.max_response_tokens
    rows = ROW_BYTES * responses * row * conf.learner.sequence_parallel
    way = route(conf)
    versions = 2 if way.transport is Transport.object_store or way.keep else 0
    weights = versions * weight_bytes(config, conf.model.dtype) if config else 0
    restarts = conf.learner.max_restarts and not conf.model.lora.rank
    state = 2 * 3 * weight_bytes(config, Dtype.float32) if config and restarts else 0
    return results + rows + weights + state


def weight_bytes(config: Mapping[str, Any], dtype: Dtype) -> int:
    """Of all matrices, recurrent layers counted as if they had attention; 0 for a model that is no decoder."""
    shape = shape_of({**config, "layer_types": None})
    if shape is None:
        return 0
    embeddings = shape.vocab * shape.hidden * (1 if config.get("tie_word_embeddings") else 2)
    return (shape.linear(1) // 2 + embeddings) * (4 if dtype is Dtype.float32 else 2)  # 2 FLOPs a weight and token


def sized(
    conf: Config, config: Mapping[str, Any] | None = None, evaluated: int = 0, training: bool = True
) -> ClusterConf:
    """conf.cluster with its object_store_gib, computed if it is null. See `needed` for the arguments.

    A line on stderr says when the setting, or the memory behind it, is too small: Ray then moves objects to the disk
    and back. A computed size of a private Ray is lowered to what Ray starts with.
    """
    need, given = needed(conf, config, evaluated, training) / GIB, conf.cluster.object_store_gib
    gib = given or max(LEAST_GIB, round(need, 2))
    if given is not None and given < need:
        _say(
            f"cluster.object_store_gib={given:g} is less than the {need:.2f} GiB that this run's batches and weights "
            "take at the longest answers: Ray will move some to the disk; leave the setting out (null: computed), or "
            "lower rollout.prompts_per_step or run.max_staleness"
        )
    if not (conf.cluster.address or os.environ.get("RAY_ADDRESS")):
        free, memory = shutil.disk_usage(SHM).free / GIB if SHM.is_dir() else 0.0, machine_memory() / GIB
        wanted, gib = gib, gib if given else min(gib, _room(free, memory))
        if gib < wanted:
            _say(
                f"Ray's object store has {gib:.2f} GiB, and this run may need {wanted:.2f}, for which {SHM} "
                f"({free:.2f} GiB free) or the memory ({memory:.2f} GiB, half of it for the store) is too small: Ray "
                "will move some objects to the disk"
            )
        if free < gib:
            refused = gib > FILE_GIB and not os.environ.get(SLOW_ALLOWED)
            then = "and Ray does not start with so large a one" if refused else "so Ray takes a slower file"
            _say(
                f"Ray's object store of {gib:.2f} GiB does not fit into {SHM} ({free:.2f} GiB free), {then} in its "
                f"temporary folder: free some, or start the container with --shm-size={int(wanted + 1.5)}g"
            )
    return replace(conf.cluster, object_store_gib=gib)


def _room(free: float, memory: float) -> float:
    """GiB that a store may have, of those free in SHM and of the memory: in SHM, or in a file where SHM is tiny."""
    fast = SHM_SHARE * free
    return max(LEAST_GIB, min(fast if fast >= LEAST_GIB else FILE_GIB, MEMORY_SHARE * memory))


def machine_memory() -> int:
    """Bytes that this machine has, or its container may use."""
    limits = [file.read_text().strip() for file in CGROUP if file.is_file()]
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *map(int, filter(str.isdigit, limits)), 2**60)


def note_smaller(store_gib: float, conf: ClusterConf, host: str) -> None:
    """For a Ray that was joined: a line when the object store of this host is smaller than `sized` computed."""
    if conf.object_store_gib is not None and store_gib < conf.object_store_gib:
        _say(
            f"the object store of the joined Ray on this host ({host}) has {store_gib:.2f} GiB, and this run may need "
            f"{conf.object_store_gib:.2f}: start it with `ray start --object-store-memory="
            f"{int(conf.object_store_gib * GIB)}` there, or Ray will move objects to the disk"
        )


def _say(line: str) -> None:
    print(f"thinkless: {line}", file=sys.stderr, flush=True)
