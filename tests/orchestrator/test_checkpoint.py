"""Checkpoints are complete or absent, the newest are kept, and a full disk costs none of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.base.errors import ActorDied, RunError
from orchestrator.base.interrupt import EndedAtOnce
from orchestrator.training.checkpoint import CheckpointStore

STATE = {"prompts": {"position": 48}, "best": {"step": 2, "reward": 0.5}}


class Writes:
    """A learner that writes `content`, or whatever `write` does."""

    def __init__(self, write: Callable[[Path], object] | None = None):
        self.write = write or (lambda folder: (folder / "weights").write_bytes(b"7" * 1000))

    def save(self, folder: str) -> None:
        self.write(Path(folder))

    def load(self, folder: str) -> int:
        raise NotImplementedError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_saved_checkpoint_is_the_latest_one_and_holds_its_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None and store.steps() == []
    store.save(2, Writes(), STATE)
    found = CheckpointStore(tmp_path, keep=2).latest()
    assert found == (tmp_path / "checkpoints" / "step_000002", {"step": 2, **STATE})
    assert (found[0] / "weights").read_bytes() == b"7" * 1000
    assert json.loads((found[0] / "state.json").read_text())["prompts"]["position"] == 48


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [20, 30]), (0, [3, 10, 20, 30])])
def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path, keep)
    for step in (3, 10, 20, 30):
        store.save(step, Writes(), STATE)
    assert store.steps() == left and names(tmp_path) == [f"step_{step:06d}" for step in left]


def test_steps_beyond_six_digits_stay_in_order(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (999_999, 1_000_000):
        store.save(step, Writes(), STATE)
    assert store.steps() == [999_999, 1_000_000]
    found = store.latest()
    assert found is not None and found[1]["step"] == 1_000_000


def test_incomplete_checkpoints_are_ignored(tmp_path: Path) -> None:
    """A kill -9 between two files leaves the folder beside; a folder without its state is none."""
    store = CheckpointStore(tmp_path, keep=3)
    store.save(1, Writes(), STATE)
    (tmp_path / "checkpoints" / ".step_000002.partial").mkdir()
    (tmp_path / "checkpoints" / "step_000003").mkdir()
    (tmp_path / "checkpoints" / "step_xyz").mkdir()
    assert store.steps() == [1]
    (tmp_path / "checkpoints" / ".step_000004.partial").mkdir()
    store.save(2, Writes(), STATE)
    assert store.steps() == [1, 2] and not list((tmp_path / "checkpoints").glob(".*"))


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    store.save(1, Writes(), STATE)
    store.save(1, Writes(lambda folder: (folder / "other").touch()), {"prompts": {}})
    assert names(tmp_path / "checkpoints" / "..") == ["step_000001"]
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "step_000001").iterdir()) == ["other", "state.json"]


# ---- a full disk ----


def to_a_full_device(folder: Path) -> None:
    (folder / "begun").write_bytes(b"some of it")
    with open("/dev/full", "wb") as file:
        file.write(b"7" * 1_000_000)


def torch_to_a_full_device(folder: Path) -> None:
    """As DeepSpeed writes: torch's own writer raises no OSError."""
    import torch

    (folder / "learner").symlink_to("/dev/full")
    torch.save({"weights": torch.zeros(100_000)}, folder / "learner")


@pytest.mark.parametrize("write", [to_a_full_device, torch_to_a_full_device])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, write: Callable[[Path], object]) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(10, Writes(), STATE)
    with pytest.raises(RunError) as raised:
        store.save(20, Writes(write), STATE)
    message = str(raised.value)
    assert "cannot save the checkpoint of step 20" in message and "the checkpoint of step 10 is intact" in message
    assert f"resume={tmp_path}" in message and "MiB free" in message and "\n" not in message
    assert names(tmp_path) == ["step_000010"]
    found = store.latest()
    assert found and found[1]["step"] == 10 and (found[0] / "weights").read_bytes() == b"7" * 1000


@pytest.mark.parametrize("error", [ActorDied("learner rank 1: killed"), TimeoutError("learner rank 0 timed out")])
def test_errors_other_than_the_disks_are_raised_unchanged(tmp_path: Path, error: Exception) -> None:
    def write(folder: Path) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        CheckpointStore(tmp_path, keep=1).save(1, Writes(write), STATE)
    assert raised.value is error and names(tmp_path) == []


def test_a_full_disk_before_the_first_checkpoint_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no earlier checkpoint: free some space"):
        CheckpointStore(tmp_path, keep=1).save(1, Writes(to_a_full_device), STATE)
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB; without the right to mount one, a limit on the size of this process's files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        import resource
        import signal

        before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_leaves_the_previous_checkpoint_and_saving_works_again_with_room(small_disk: Path) -> None:
    """A real one, where even the small state file may find no room."""
    store = CheckpointStore(small_disk, keep=2)
    store.save(1, Writes(), STATE)
    with pytest.raises(RunError, match="step 1 is intact") as raised:
        store.save(2, Writes(lambda folder: (folder / "weights").write_bytes(b"7" * 2**21)), STATE)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno in (errno.ENOSPC, errno.EFBIG)
    assert names(small_disk) == ["step_000001"]
    store.save(2, Writes(), STATE)  # with room again, the same run goes on
    assert store.steps() == [1, 2]


# ---- after an interruption ----


def test_the_last_complete_step_is_saved_once(tmp_path: Path) -> None:
    """Not before the first one, and not again when its checkpoint is there."""
    store = CheckpointStore(tmp_path, keep=2)
    store.note(0, STATE)
    assert store.save_noted(Writes()) is None and store.steps() == []
    store.note(3, STATE)
    assert store.save_noted(Writes()) == 3
    found = store.latest()
    assert found is not None and found[1] == {"step": 3, **STATE}
    refusing = Writes(lambda folder: pytest.fail("saved twice"))
    assert store.save_noted(refusing) is None
    store.note(3, {**STATE, "validated": 3})  # a validation has come since
    assert store.save_noted(Writes()) == 3 and store.steps() == [3]


def test_a_second_signal_leaves_no_incomplete_checkpoint(tmp_path: Path) -> None:
    def ended(folder: Path) -> None:
        (folder / "begun").write_bytes(b"some of it")
        raise EndedAtOnce

    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, Writes(), STATE)
    store.note(2, STATE)
    with pytest.raises(EndedAtOnce):
        store.save_noted(Writes(ended))
    assert names(tmp_path) == ["step_000001"]
