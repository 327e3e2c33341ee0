"""The learner's state on disk: any part is read back; what is crafted or damaged is refused, and runs nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from learner.fragments import Saved
from rollout.base.errors import BadInput

VALUES = torch.arange(10.0)


class Runs:
    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def save(folder: Path, cuts: list[int], name: str = "body.w") -> None:
    """VALUES, divided at `cuts` over as many files."""
    for rank, (first, last) in enumerate(zip([0, *cuts], [*cuts, 10], strict=True)):
        tensors = {f"{kind}/{name}/{first}": VALUES[first:last].clone() for kind in ("weight", "exp_avg", "exp_avg_sq")}
        save_file(tensors, folder / f"rank_{rank:05d}.safetensors", {"steps": "7"})


@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 9]])
def test_any_part_is_read_from_however_many_files(tmp_path: Path, cuts: list[int]) -> None:
    save(tmp_path, cuts)
    saved = Saved.read_from(tmp_path)
    assert saved.steps == 7
    saved.refuse_others({"body.w": 10})
    for first in range(10):
        for size in range(11 - first):
            assert torch.equal(saved.read("exp_avg", "body.w", first, size), VALUES[first : first + size])


def test_a_missing_file_and_another_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no rank_00000\.safetensors"):
        Saved.read_from(tmp_path)
    save(tmp_path, [4, 8])
    for sizes in ({"body.w": 11}, {"body.w": 10, "body.v": 1}, {}):
        with pytest.raises(BadInput, match=r"body\.[wv] has (no|10) values in the checkpoint .* and \w+ in the model"):
            Saved.read_from(tmp_path).refuse_others(sizes)
    (tmp_path / "rank_00001.safetensors").unlink()
    with pytest.raises(BadInput, match=r"lacks values of body\.w \(weight\), from place 4 on"):
        Saved.read_from(tmp_path).read("weight", "body.w", 2, 8)


@pytest.mark.parametrize("kind", ["torch", "zip-free torch", "pickle"])
@pytest.mark.parametrize("runs", [os.mkdir, Path.touch, eval], ids=["mkdir", "touch", "eval"])
def test_a_crafted_file_runs_nothing(tmp_path: Path, runs: Callable[..., Any], kind: str) -> None:
    path, made = tmp_path / "rank_00000.safetensors", tmp_path / "made"
    content = {"w": VALUES, "more": Runs(runs, f"open({str(made)!r}, 'w')" if runs is eval else made)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(BadInput, match=r"rank_00000.safetensors is damaged, or no file of a checkpoint") as raised:
        Saved.read_from(tmp_path)
    assert not made.exists() and "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, 1, 100, -1, -40])
def test_a_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    save(tmp_path, [5])
    path = tmp_path / "rank_00001.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match=r"rank_00001\.safetensors is damaged") as raised:
        Saved.read_from(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("tensors", [{"w": VALUES}, {"weight/w/x": VALUES}, {"weight/w/0": VALUES.view(2, 5)}])
def test_other_tensors_are_no_state(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "rank_00000.safetensors", {"steps": "1"})
    with pytest.raises(BadInput, match="is damaged, or no file of a checkpoint"):
        Saved.read_from(tmp_path)
