"""A checkpoint's file gives tensors and plain values; one that is crafted or damaged is refused, and runs nothing."""

from __future__ import annotations

import enum
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from learner import tensor_files
from rollout.base.errors import BadInput

STATE = {"module": {"w": torch.arange(6.0).reshape(2, 3)}, "updates": 3, "names": ["a", None, 0.5, True]}


class Stage(enum.Enum):
    """As DeepSpeed's: an object of a class in the files."""

    two = 2


class Runs:
    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    path = str(tmp_path / "state.pt")
    torch.save(STATE, path)
    found = tensor_files.load(path, map_location="cpu")
    assert torch.equal(found["module"]["w"], STATE["module"]["w"])  # type: ignore[index]
    assert {**found, "module": None} == {**STATE, "module": None}


def test_of_classes_only_the_given_ones_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "state.pt")
    torch.save({"stage": Stage.two}, path)
    assert tensor_files.load(path, classes=[Stage]) == {"stage": Stage.two}
    with pytest.raises(BadInput, match=r"state.pt is not loaded: it names .*Stage, which is no part of a checkpoint"):
        tensor_files.load(path)  # what was allowed for one file is not for the next


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickles"])
@pytest.mark.parametrize("runs", [os.mkdir, Path.touch, eval], ids=["mkdir", "touch", "eval"])
def test_a_crafted_file_runs_nothing(tmp_path: Path, runs: Callable[..., Any], zipped: bool) -> None:
    path, made = str(tmp_path / "state.pt"), tmp_path / "made"
    argument = f"open({str(made)!r}, 'w')" if runs is eval else made
    torch.save({**STATE, "more": Runs(runs, argument)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"could run code") as raised:
        tensor_files.load(path)
    assert not made.exists() and "\n" not in str(raised.value)
    torch.load(path, weights_only=False)  # as DeepSpeed reads it
    assert made.exists()


@pytest.mark.parametrize("size", [0, 1, 100, -200])
def test_a_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "state.pt"
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match=r"state\.pt is not loaded: it is damaged, or no file of a checkpoint") as raised:
        tensor_files.load(str(path))
    assert "\n" not in str(raised.value) and "weights_only" not in str(raised.value)


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    path, made = tmp_path / "state.pt", tmp_path / "made"
    path.write_bytes(pickle.dumps(Runs(os.mkdir, str(made)), protocol=2))
    with pytest.raises(BadInput):
        tensor_files.load(str(path))
    assert not made.exists()
