"""Weights round-trip bit by bit, aliases and pickles cost no bytes; the choice of transport and of who fetches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from conf.check import check
from conf.errors import BadConfig
from conf.schema import (
    ClusterConf,
    Config,
    Device,
    LearnerConf,
    ModelConf,
    Placement,
    RolloutConf,
    Transport,
)
from rollout.weight_sync.weights import (
    Route,
    Weights,
    buckets,
    route,
    transport,
    views,
)

SHAPES = {"odd": (3, 5, 7), "row": (1, 1), "vector": (13,), "scalar": (), "empty": (0, 4), "matrix": (64, 33)}
Made = Callable[..., Weights]


def copied(*arguments: Any) -> Weights:
    return views(*arguments).copy()


both = pytest.mark.parametrize("made", [views, copied])


def named(dtype: torch.dtype) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(name, torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()]


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_weights_round_trip_bit_by_bit(made: Made, dtype: torch.dtype) -> None:
    tensors = named(dtype)
    weights = made(tensors, 7)
    assert weights.version == 7
    back = list(weights.tensors())
    assert [name for name, _ in back] == [name for name, _ in tensors]
    for (name, before), (_, after) in zip(tensors, back, strict=True):
        assert after.dtype == dtype and after.shape == before.shape, name
        assert torch.equal(before, after), name


@both
def test_mixed_dtypes_and_strides_round_trip(made: Made) -> None:
    transposed = torch.arange(12.0).view(3, 4).T
    tensors = [("bf16", torch.full((3,), 1.5, dtype=torch.bfloat16)), ("strided", transposed), ("f32", torch.ones(5))]
    back = dict(made(tensors, 0).tensors())
    assert all(torch.equal(tensor, back[name]) and tensor.dtype == back[name].dtype for name, tensor in tensors)


@both
def test_tensors_that_share_a_storage_round_trip(made: Made) -> None:
    base = torch.arange(6.0)
    back = dict(made([("whole", base), ("half", base[:3])], 0).tensors())
    assert torch.equal(back["whole"], base) and torch.equal(back["half"], base[:3])


def test_views_are_live_until_they_are_copied() -> None:
    tensor = torch.ones(4)
    live = views([("a", tensor)], 0)
    kept = live.copy()
    tensor += 1
    assert torch.equal(dict(kept.tensors())["a"], torch.ones(4))
    assert dict(live.tensors())["a"].data_ptr() == tensor.data_ptr()


@both
def test_an_alias_shares_bytes(made: Made) -> None:
    tensors = named(torch.float32)
    plain, aliased = made(tensors, 0), made(tensors, 0, {"lm_head.weight": "matrix"})
    assert aliased.size == plain.size
    assert aliased.aliases == {"lm_head.weight": "matrix"} and not plain.aliases
    back = dict(aliased.tensors())
    assert back["lm_head.weight"].data_ptr() == back["matrix"].data_ptr()
    assert torch.equal(back["lm_head.weight"], dict(tensors)["matrix"])


@both
def test_an_alias_of_a_missing_tensor_is_rejected(made: Made) -> None:
    with pytest.raises(KeyError, match="absent"):
        made(named(torch.float32), 0, {"lm_head.weight": "absent"})


@both
def test_buffers_are_pickled_out_of_band_without_a_copy(made: Made) -> None:
    """The object store keeps buffers of pickle protocol 5 apart and maps them: neither side copies the weights."""
    tensors = [("a", torch.randn(1000, 100)), ("b", torch.randn(300, 100).to(torch.bfloat16))]
    weights = made(tensors, 3)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(weights, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 2000 and sum(b.raw().nbytes for b in buffers) == weights.size
    pairs = zip(buffers, weights.buffers, strict=True)
    assert all(np.shares_memory(np.frombuffer(there.raw(), np.uint8), here) for there, here in pairs)
    back = pickle.loads(data, buffers=buffers)
    assert back.version == 3 and np.shares_memory(back.buffers[0], weights.buffers[0])
    assert all(torch.equal(dict(back.tensors())[name], tensor) for name, tensor in tensors)


@pytest.mark.filterwarnings("error")
def test_a_read_only_buffer_is_read_without_a_warning() -> None:
    """As the object store gives it."""
    weights = copied([("a", torch.ones(3))], 0)
    weights.buffers[0].setflags(write=False)
    assert torch.equal(dict(weights.tensors())["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([3], [[3]]),
        ([4, 6, 1], [[4, 6], [1]]),
        ([11, 1], [[11], [1]]),  # larger than a bucket: alone
        ([1, 11, 1, 9], [[1], [11], [1, 9]]),
        ([10, 10], [[10], [10]]),
        ([0, 10, 0], [[0, 10, 0]]),
    ],
)
def test_buckets_keep_the_order_and_the_limit(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(buckets(sizes, lambda size: size, 10)) == expected


# ---------------------------------------------------------------------- which transport

GPU_ROLLOUT = RolloutConf(device=Device.gpu, workers=2)
GPU_LEARNER = LearnerConf(device=Device.gpu, ranks=2, zero_stage=2)


def conf(rollout: RolloutConf, learner: LearnerConf, **cluster: Any) -> Config:
    return Config(model=ModelConf(path="some/model"), rollout=rollout, learner=learner, cluster=ClusterConf(**cluster))


@pytest.mark.parametrize(
    ("rollout", "learner", "cluster", "expected"),
    [
        (RolloutConf(), LearnerConf(), {}, Transport.object_store),
        (RolloutConf(), LearnerConf(), {"placement": Placement.colocated}, Transport.object_store),
        (GPU_ROLLOUT, LearnerConf(), {}, Transport.object_store),
        (GPU_ROLLOUT, GPU_LEARNER, {}, Transport.nccl),
        (GPU_ROLLOUT, GPU_LEARNER, {"placement": Placement.colocated}, Transport.ipc),
        (
            replace(GPU_ROLLOUT, workers=1, num_gpus=0.5),
            replace(GPU_LEARNER, ranks=1, num_gpus=0.5),
            {},
            Transport.object_store,
        ),
        (GPU_ROLLOUT, GPU_LEARNER, {"transport": Transport.object_store}, Transport.object_store),
        (RolloutConf(), LearnerConf(), {"transport": Transport.ipc}, Transport.ipc),
    ],
    ids=["cpu", "cpu-colocated", "mixed", "disaggregated", "colocated", "fractions", "explicit", "cpu-ipc"],
)
def test_auto_chooses_the_transport_by_device_and_placement(
    rollout: RolloutConf, learner: LearnerConf, cluster: dict[str, Any], expected: Transport
) -> None:
    chosen = conf(rollout, learner, **cluster)
    check(chosen)
    assert transport(chosen) is expected and route(chosen).transport is expected


@pytest.mark.parametrize(
    ("rollout", "learner", "cluster", "message"),
    [
        (
            RolloutConf(),
            LearnerConf(),
            {"transport": Transport.nccl},
            "cluster.transport=nccl broadcasts between whole",
        ),
        (
            replace(GPU_ROLLOUT, workers=1, num_gpus=0.5),
            replace(GPU_LEARNER, ranks=1, num_gpus=0.5),
            {"transport": Transport.nccl},
            "whole GPUs",
        ),
        (
            GPU_ROLLOUT,
            GPU_LEARNER,
            {"transport": Transport.nccl, "placement": Placement.colocated},
            "ipc where they share them",
        ),
        (GPU_ROLLOUT, LearnerConf(), {"transport": Transport.ipc}, "cluster.transport=ipc needs one device for both"),
        (
            replace(GPU_ROLLOUT, workers=1),
            GPU_LEARNER,
            {"transport": Transport.ipc},
            "beside every learner rank: rollout.workers=1 x rollout.tensor_parallel=1 must be learner.ranks=2",
        ),
        (
            RolloutConf(),
            LearnerConf(),
            {"weight_sync_timeout_s": 0.0},
            r"cluster.weight_sync_timeout_s must be in \[0.1, ",
        ),
        (
            RolloutConf(),
            LearnerConf(weight_sync_bucket_mib=0.0),
            {},
            r"learner.weight_sync_bucket_mib must be in \[0.001, ",
        ),
    ],
)
def test_impossible_transports_are_rejected(
    rollout: RolloutConf, learner: LearnerConf, cluster: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadConfig, match=message):
        check(conf(rollout, learner, **cluster))


def test_a_copy_is_kept_where_workers_may_restart() -> None:
    assert not route(conf(GPU_ROLLOUT, GPU_LEARNER)).keep
    assert route(conf(replace(GPU_ROLLOUT, max_restarts=3), GPU_LEARNER)).keep
    assert not route(conf(replace(GPU_ROLLOUT, max_restarts=3), GPU_LEARNER)).deferred
    assert route(conf(replace(GPU_ROLLOUT, max_restarts=3), GPU_LEARNER, placement=Placement.colocated)).deferred


def test_each_rank_serves_the_workers_of_its_route() -> None:
    all_workers = ["rollout worker 0", "rollout worker 1"]
    broadcast, shared = Route(Transport.nccl, 2), Route(Transport.ipc, 2, parallel=2)
    assert broadcast.guests(0, True) == all_workers and broadcast.guests(1, True) == []
    assert [shared.guests(rank, True) for rank in range(4)] == [[name] for name in sorted(all_workers * 2)]
    assert shared.guests(0, False) == all_workers and shared.guests(1, False) == []  # one memory for all CPUs
