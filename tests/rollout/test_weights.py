"""Weights in one buffer: what goes in comes out, bit by bit; aliases and pickles cost no bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rollout.weights import ALIGNMENT, flatten

SHAPES = {"odd": (3, 5, 7), "row": (1, 1), "vector": (13,), "scalar": (), "empty": (0, 4), "matrix": (64, 33)}


def named(dtype: torch.dtype) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(name, torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_round_trip(dtype: torch.dtype) -> None:
    tensors = named(dtype)
    weights = flatten(tensors, version=7)
    assert weights.version == 7
    back = list(weights.tensors())
    assert [name for name, _ in back] == [name for name, _ in tensors]
    for (name, before), (_, after) in zip(tensors, back, strict=True):
        assert after.dtype == dtype and after.shape == before.shape, name
        assert torch.equal(before, after), name


def test_mixed_dtypes_and_strides_round_trip() -> None:
    transposed = torch.arange(12.0).view(3, 4).T
    tensors = [("bf16", torch.full((3,), 1.5, dtype=torch.bfloat16)), ("strided", transposed), ("f32", torch.ones(5))]
    back = dict(flatten(tensors, 0).tensors())
    assert all(torch.equal(tensor, back[name]) and tensor.dtype == back[name].dtype for name, tensor in tensors)


def test_tensors_that_share_a_storage_round_trip() -> None:
    base = torch.arange(6.0)
    back = dict(flatten([("whole", base), ("half", base[:3])], 0).tensors())
    assert torch.equal(back["whole"], base) and torch.equal(back["half"], base[:3])


def test_a_copy_is_taken() -> None:
    tensor = torch.ones(4)
    weights = flatten([("a", tensor)], 0)
    tensor += 1
    assert torch.equal(dict(weights.tensors())["a"], torch.ones(4))


def test_entries_are_aligned_and_apart() -> None:
    weights = flatten(named(torch.bfloat16), 0)
    end = 0
    for entry in weights.entries:
        assert entry.offset % ALIGNMENT == 0 and entry.offset >= end
        end = entry.offset + entry.size
    assert end <= len(weights.buffer) < end + ALIGNMENT


def test_an_alias_shares_bytes() -> None:
    tensors = named(torch.float32)
    plain, aliased = flatten(tensors, 0), flatten(tensors, 0, {"lm_head.weight": "matrix"})
    assert len(aliased.buffer) == len(plain.buffer)
    back = dict(aliased.tensors())
    assert back["lm_head.weight"].data_ptr() == back["matrix"].data_ptr()
    assert torch.equal(back["lm_head.weight"], dict(tensors)["matrix"])


def test_an_alias_of_nothing_is_refused() -> None:
    with pytest.raises(KeyError, match="absent"):
        flatten(named(torch.float32), 0, {"lm_head.weight": "absent"})


def test_pickles_out_of_band_without_a_copy() -> None:
    """The object store keeps buffers of pickle protocol 5 apart and maps them: neither side copies the weights."""
    weights = flatten([("a", torch.randn(1000, 100))], 3)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(weights, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 2000 and sum(b.raw().nbytes for b in buffers) == len(weights.buffer)
    assert np.shares_memory(np.frombuffer(buffers[0], np.uint8), weights.buffer)
    back = pickle.loads(data, buffers=buffers)
    assert back.version == 3 and np.shares_memory(back.buffer, weights.buffer)
    assert torch.equal(dict(back.tensors())["a"], dict(weights.tensors())["a"])


@pytest.mark.filterwarnings("error")
def test_reads_a_read_only_buffer_in_silence() -> None:
    """As the object store gives it."""
    weights = flatten([("a", torch.ones(3))], 0)
    weights.buffer.setflags(write=False)
    assert torch.equal(dict(weights.tensors())["a"], torch.ones(3))
