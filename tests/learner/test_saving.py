"""A rank's file: readable as safetensors, with the digest of its bytes; written beside, it is what was copied."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from learner import saving
from learner.saving import Content, Saver, write
from learner.written import SaveLost


def content() -> Content:
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(5))
    tensors = {"a": whole[:7], "none": whole[:0], "every second": whole[::2], "narrow": whole[:9].to(torch.bfloat16)}
    return Content("some.safetensors", tensors, {"steps": "7"})


@pytest.mark.parametrize("piece", [16, 1 << 24])
def test_a_file_is_safetensors_and_its_digest_that_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(saving, "PIECE", piece)
    one = content()
    ((name, (size, digest)),) = write(tmp_path, one).items()
    data = (tmp_path / name).read_bytes()
    assert name == one.name and size == len(data) and digest == hashlib.sha256(data).hexdigest()
    read = load_file(tmp_path / name)
    assert read.keys() == one.tensors.keys()
    assert all(torch.equal(read[key], values.float()) for key, values in one.tensors.items())
    with safe_open(tmp_path / name, "pt") as file:
        assert file.metadata() == one.said


def test_beside_training_the_copy_is_written(tmp_path: Path) -> None:
    """Each time, also when the copy before is still being written."""
    saver, one = Saver(), content()
    with pytest.raises(SaveLost):
        saver.written(True)
    before = []
    for nth in range(3):
        (tmp_path / str(nth)).mkdir()
        before.append({key: values.clone() for key, values in one.tensors.items()})
        saver.begin(tmp_path / str(nth), one)
        for values in one.tensors.values():
            values += 1
    written = saver.written(True)
    assert written is not None and saver.written(False) == written  # asked again
    assert written[one.name] == write(tmp_path, Content(one.name, before[2], one.said))[one.name]
    for nth, tensors in enumerate(before):
        read = load_file(tmp_path / str(nth) / one.name)
        assert all(torch.equal(read[key], values.float()) for key, values in tensors.items())


def test_a_rank_without_a_file_has_written_nothing_and_a_full_disk_is_told(tmp_path: Path) -> None:
    saver, one = Saver(), content()
    saver.begin(tmp_path, None)
    assert saver.written(False) == {}
    (tmp_path / one.name).symlink_to("/dev/full")
    saver.begin(tmp_path, one)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            saver.written(True)
    (tmp_path / one.name).unlink()
    saver.begin(tmp_path, one)
    assert saver.written(True)
