"""Checkpoints are complete or absent, damage to them is found and named, and a full disk costs none of them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conf.choices import Figure
from conf.schema import RunConf
from learner.written import SaveLost, Written
from orchestrator.base.errors import ActorDied, RunError
from orchestrator.base.interrupt import EndedAtOnce
from orchestrator.training import manifest
from orchestrator.training.checkpoint import CheckpointStore, NoneVerifies
from orchestrator.training.retention import Retention
from orchestrator.training.run_checkpoints import RunCheckpoints

STATE = {"prompts": {"position": 48}, "best": {"step": 2, "reward": 0.5}}


class Writes:
    """A learner that writes `content`, or whatever `write` does."""

    def __init__(self, write: Callable[[Path], object] | None = None):
        self.write = write or (lambda folder: (folder / "weights").write_bytes(b"7" * 1000))

    def save(self, folder: str) -> Written:
        self.write(Path(folder))
        return {}

    def begin_save(self, folder: str) -> None:
        raise NotImplementedError

    def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None:
        raise NotImplementedError


class WritesBeside(Writes):
    """The same, beside, as soon as it may. Its digests are of what it wrote."""

    def __init__(self, write: Callable[[Path], object] | None = None, at_once: bool = False):
        super().__init__(write)
        self.may, self._thread = threading.Event(), ThreadPoolExecutor(1)
        self.begun: list[str] = []
        if at_once:
            self.may.set()

    def begin_save(self, folder: str) -> None:
        self.begun.append(Path(folder).name)
        self._written = self._thread.submit(self._write, Path(folder))

    def _write(self, folder: Path) -> Written:
        assert self.may.wait(60)
        before = {*folder.iterdir()}
        self.write(folder)
        new = [path for path in folder.iterdir() if path not in before]
        return {path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in new}

    def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None:
        return self._written.result() if whole or self._written.done() else None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_saved_checkpoint_is_the_latest_one_and_holds_its_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(2))
    assert store.latest() is None and store.steps() == []
    store.save(2, Writes(), STATE)
    found = CheckpointStore(tmp_path, Retention(2)).latest()
    assert found == (tmp_path / "checkpoints" / "step_000002", {"step": 2, **STATE})
    assert (found[0] / "weights").read_bytes() == b"7" * 1000
    assert json.loads((found[0] / "state.json").read_text())["prompts"]["position"] == 48


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [20, 30]), (0, [3, 10, 20, 30])])
def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path, Retention(keep))
    for step in (3, 10, 20, 30):
        store.save(step, Writes(), STATE)
    assert store.steps() == left and names(tmp_path) == [f"step_{step:06d}" for step in left]


def validated(accuracy: dict[int, float | None]) -> Callable[[int], dict[str, Any]]:
    """States of checkpoints whose models had these accuracies; those of other steps were not validated."""
    return lambda step: {
        "step": step,
        "validated": step if step in accuracy else 0,
        "validation": {"accuracy": accuracy.get(step, 0.99)},
    }


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Retention(2), [50, 60]),
        (Retention(1, every=20), [20, 40, 60]),
        (Retention(1, every=60), [60]),
        (Retention(1, best="accuracy"), [30, 60]),
        (Retention(1, best="accuracy", lowest=True), [10, 60]),
        (Retention(2, every=20, best="accuracy"), [20, 30, 40, 50, 60]),
        (Retention(0, every=20, best="accuracy"), [10, 20, 30, 40, 50, 60]),
        (Retention(1, best="tokens"), [60]),
    ],
    ids=str,
)
def test_the_newest_the_nth_and_the_best_are_kept(tmp_path: Path, keep: Retention, left: list[int]) -> None:
    """A validation without a verdict, and a model that was not validated, are no best. Of equal ones the first is."""
    state = validated({10: 0.1, 20: 0.5, 30: 0.7, 40: None, 50: 0.7})
    store = CheckpointStore(tmp_path, keep)
    for step in range(10, 70, 10):
        store.save(step, Writes(), state(step))
    assert store.steps() == left and names(tmp_path) == [f"step_{step:06d}" for step in left]
    assert Retention.of(RunConf()) == Retention(2)
    chosen = RunConf(keep_checkpoints=1, keep_every=7, keep_best=Figure.tokens, keep_best_lowest=True)
    assert Retention.of(chosen) == Retention(1, 7, "tokens", True)


def test_steps_beyond_six_digits_stay_in_order(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(2))
    for step in (999_999, 1_000_000):
        store.save(step, Writes(), STATE)
    assert store.steps() == [999_999, 1_000_000]
    found = store.latest()
    assert found is not None and found[1]["step"] == 1_000_000


def test_incomplete_checkpoints_are_ignored(tmp_path: Path) -> None:
    """A kill -9 between two files leaves the folder beside."""
    store = CheckpointStore(tmp_path, Retention(3))
    store.save(1, Writes(), STATE)
    (tmp_path / "checkpoints" / ".step_000002.partial").mkdir()
    (tmp_path / "checkpoints" / "step_xyz").mkdir()
    (tmp_path / "checkpoints" / "step_3").touch()
    assert store.steps() == [1]
    (tmp_path / "checkpoints" / ".step_000004.partial").mkdir()
    store.save(2, Writes(), STATE)
    assert store.steps() == [1, 2] and not list((tmp_path / "checkpoints").glob(".*"))


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(3))
    store.save(1, Writes(), STATE)
    store.save(1, Writes(lambda folder: (folder / "other").touch()), {"prompts": {}})
    assert names(tmp_path / "checkpoints" / "..") == ["step_000001"]
    held = sorted(p.name for p in (tmp_path / "checkpoints" / "step_000001").iterdir())
    assert held == ["manifest.json", "other", "state.json"]


def test_a_kill_while_old_checkpoints_are_dropped_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, Retention(1))
    store.save(1, Writes(), STATE)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda folder, ignore_errors: None)
        store.save(2, Writes(), STATE)
        store.save(2, Writes(), STATE)
    assert names(tmp_path) == [".step_000001.partial", ".step_000002.partial", "step_000002"]
    CheckpointStore(tmp_path, Retention(1)).save(3, Writes(), STATE)
    assert names(tmp_path) == ["step_000003"]


# ---- damage ----


def flip(path: Path, bit: int = 2011) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda f: flip(f / "learner" / "rank_0.pt"), "learner/rank_0.pt is not what was written"),
    "a flipped bit in the state": (lambda f: flip(f / "state.json"), "state.json is not what was written"),
    "a flipped bit in a digest": (lambda f: flip(f / "manifest.json", 800), "manifest.json is not what was written"),
    "truncated": (lambda f: os.truncate(f / "weights", 999), "weights has 999 bytes instead of 1,000"),
    "emptied": (lambda f: os.truncate(f / "state.json", 0), "state.json has 0 bytes instead of "),
    "a file is missing": (lambda f: (f / "learner" / "rank_0.pt").unlink(), "learner/rank_0.pt is missing"),
    "a folder is missing": (lambda f: shutil.rmtree(f / "learner"), "learner/rank_0.pt is missing"),
    "no state": (lambda f: (f / "state.json").unlink(), "state.json is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (lambda f: os.truncate(f / "manifest.json", 0), "manifest.json is not what was written"),
    "a manifest of something else": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is not what was"),
    "a file too many": (lambda f: (f / "learner" / "rank_1.pt").touch(), "learner/rank_1.pt is not part of it"),
    "nothing in it": (lambda f: empty(f), "state.json is missing"),
    "a pipe": (lambda f: replace_by_a_pipe(f / "weights"), "weights is no file"),
}


def two_files(folder: Path) -> None:
    (folder / "weights").write_bytes(b"7" * 1000)
    (folder / "learner").mkdir()
    (folder / "learner" / "rank_0.pt").write_bytes(b"8" * 1000)


@pytest.mark.parametrize(("break_it", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], object], said: str
) -> None:
    for step in (20, 40):
        CheckpointStore(tmp_path, Retention(2)).save(step, Writes(two_files), STATE)
    newest = tmp_path / "checkpoints" / "step_000040"
    break_it(newest)
    store = CheckpointStore(tmp_path, Retention(2))
    found = store.latest()
    assert found is not None and found[1] == {"step": 20, **STATE}
    assert store.latest() == found and store.steps() == [20]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the checkpoint {newest} is damaged and not used: {said}" in line
    store.save(30, Writes(), STATE)
    assert store.steps() == [20, 30] and newest.is_dir()  # neither counted nor removed
    store.save(40, Writes(), STATE)
    assert CheckpointStore(tmp_path, Retention(2)).latest() == (newest, {"step": 40, **STATE})


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """In any file; only in the manifest's spaces and line ends it may change nothing."""
    CheckpointStore(tmp_path, Retention(1)).save(1, Writes(two_files), STATE)
    folder = tmp_path / "checkpoints" / "step_000001"
    assert manifest.damage(folder) is None
    for path in (folder / "weights", folder / "learner" / "rank_0.pt", folder / "state.json", folder / manifest.NAME):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 211):
            flip(path, bit)
            said = manifest.damage(folder)
            if path.name == manifest.NAME and chr(whole[bit // 8]).isspace():
                assert said in (None, f"{path.name} is not what was written")
            else:
                assert said is not None and said.startswith(path.relative_to(folder).as_posix()), (path, bit)
            path.write_bytes(whole)
    assert manifest.damage(folder) is None


def test_without_a_checkpoint_that_verifies_one_line_says_what_is_wrong_with_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 40):
        CheckpointStore(tmp_path, Retention(2)).save(step, Writes(), STATE)
    flip(tmp_path / "checkpoints" / "step_000020" / "weights")
    (tmp_path / "checkpoints" / "step_000040" / "weights").unlink()
    with pytest.raises(NoneVerifies) as raised:
        CheckpointStore(tmp_path, Retention(2)).latest()
    said = str(raised.value)
    assert "step 20: weights is not what was written" in said and "step 40: weights is missing" in said
    assert "start a new run" in said and "\n" not in said
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_checkpoint_of_an_earlier_version_is_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those were written: no manifest, and none announced by the state."""
    CheckpointStore(tmp_path, Retention(2)).save(20, Writes(), STATE)
    folder = tmp_path / "checkpoints" / "step_000020"
    (folder / "manifest.json").unlink()
    (folder / "state.json").write_text(json.dumps({"step": 20, **STATE}))
    assert CheckpointStore(tmp_path, Retention(2)).latest() == (folder, {"step": 20, **STATE})
    assert "has no manifest (an earlier version wrote it)" in capsys.readouterr().err
    (folder / "state.json").write_text("{")
    with pytest.raises(NoneVerifies, match=r"step 20: state\.json is not what was written"):
        CheckpointStore(tmp_path, Retention(2)).latest()


def test_a_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for, and not at all by the process that wrote it."""
    reads: list[Path] = []
    damage = manifest.damage

    def noted(folder: Path) -> str | None:
        reads.append(folder)
        return damage(folder)

    monkeypatch.setattr(manifest, "damage", noted)
    store = CheckpointStore(tmp_path, Retention(2))
    store.save(1, Writes(), STATE)
    store.note(1, STATE)
    assert store.latest() and store.save_noted(Writes()) is None and reads == []
    again = CheckpointStore(tmp_path, Retention(2))
    assert again.latest() == again.latest() and len(reads) == 1
    again.note(1, STATE)
    assert again.save_noted(Writes(lambda folder: pytest.fail("saved twice"))) is None and len(reads) == 1


def test_the_manifest_is_on_the_disk_before_the_checkpoint_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder of it is synced before the rename, the folder that holds it after."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    CheckpointStore(tmp_path, Retention(2)).save(1, Writes(two_files), STATE)
    inside = {"", "/weights", "/state.json", "/manifest.json", "/learner", "/learner/rank_0.pt"}
    folder = tmp_path / "checkpoints"
    assert inside <= {one.removeprefix(str(folder / ".step_000001.partial")) for one in synced}
    assert synced[-1] == str(folder)


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
    store = CheckpointStore(tmp_path, Retention(1))
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
        CheckpointStore(tmp_path, Retention(1)).save(1, Writes(write), STATE)
    assert raised.value is error and names(tmp_path) == []


def test_a_full_disk_before_the_first_checkpoint_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no earlier checkpoint: free some space"):
        CheckpointStore(tmp_path, Retention(1)).save(1, Writes(to_a_full_device), STATE)
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
    store = CheckpointStore(small_disk, Retention(2))
    store.save(1, Writes(), STATE)
    with pytest.raises(RunError, match="step 1 is intact") as raised:
        store.save(2, Writes(lambda folder: (folder / "weights").write_bytes(b"7" * 2**21)), STATE)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno in (errno.ENOSPC, errno.EFBIG)
    assert names(small_disk) == ["step_000001"]
    store.save(2, Writes(), STATE)  # with room again, the same run goes on
    assert store.steps() == [1, 2]


# ---- beside training ----


def test_a_checkpoint_that_is_being_written_is_none_yet(tmp_path: Path) -> None:
    store, learner = CheckpointStore(tmp_path, Retention(1)), WritesBeside()
    store.save(10, learner, STATE)
    store.begin(20, learner, STATE)
    store.collect(whole=False)
    assert names(tmp_path) == [".step_000020.partial", "step_000010"] and store.steps() == [10]
    for one in (store, CheckpointStore(tmp_path, Retention(1))):
        found = one.latest()
        assert found is not None and found[1]["step"] == 10
    learner.may.set()
    store.collect()
    assert names(tmp_path) == ["step_000020"] and store.latest() == (
        tmp_path / "checkpoints" / "step_000020",
        {"step": 20, **STATE},
    )
    assert manifest.damage(tmp_path / "checkpoints" / "step_000020") is None
    store.collect()  # there is nothing to wait for


def test_its_state_is_that_of_the_step_at_which_it_was_begun(tmp_path: Path) -> None:
    store, state = CheckpointStore(tmp_path, Retention(1)), {"asked": [1, 2]}
    store.begin(1, WritesBeside(at_once=True), state)
    state["asked"].append(3)
    store.collect()
    assert json.loads((tmp_path / "checkpoints" / "step_000001" / "state.json").read_text())["asked"] == [1, 2]


def test_the_next_save_waits_for_the_one_that_was_begun(tmp_path: Path) -> None:
    store, learner = CheckpointStore(tmp_path, Retention(0)), WritesBeside(at_once=True)
    store.begin(1, learner, STATE)
    store.begin(2, learner, STATE)
    assert store.steps() == [1]
    store.note(2, STATE)
    assert store.save_noted(learner) is None and store.steps() == [1, 2]  # an interruption: it is there
    store.begin(3, learner, STATE)
    store.note(4, STATE)
    assert store.save_noted(learner) == 4 and store.steps() == [1, 2, 3, 4]


def test_digests_are_those_of_whoever_wrote(tmp_path: Path) -> None:
    """Nobody reads the files for the manifest, so what the disk made of them is found."""
    store, learner = CheckpointStore(tmp_path, Retention(2)), WritesBeside(at_once=True)
    store.begin(1, learner, STATE)
    assert learner.saved(True) is not None
    flip(tmp_path / "checkpoints" / ".step_000001.partial" / "weights")
    store.collect()
    with pytest.raises(NoneVerifies, match="step 1: weights is not what was written"):
        CheckpointStore(tmp_path, Retention(2)).latest()


def test_a_disk_that_is_full_beside_training_ends_the_run_at_its_next_step(tmp_path: Path) -> None:
    store, learner = CheckpointStore(tmp_path, Retention(1)), WritesBeside(to_a_full_device, at_once=True)
    store.save(10, Writes(), STATE)
    store.begin(20, learner, STATE)
    with pytest.raises(OSError, match="No space left"):
        learner.saved(True)
    run = RunCheckpoints(store, RunConf(steps=100, save_every=10), learner, [])
    with pytest.raises(RunError, match=r"cannot save the checkpoint of step 20 .*No space left.*step 10 is intact"):
        run.collect()
    assert names(tmp_path) == ["step_000010"]
    run.collect()
    learner.write = Writes().write
    store.begin(30, learner, STATE)
    store.collect()
    assert names(tmp_path) == ["step_000030"]


def test_what_a_learner_that_was_started_anew_had_begun_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Anew(WritesBeside):
        def begin_save(self, folder: str) -> None:
            (Path(folder) / "begun").touch()

        def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None:
            raise SaveLost("the learner's ranks were started anew")

    store = CheckpointStore(tmp_path, Retention(2))
    store.begin(1, Anew(), STATE)
    store.collect()
    assert names(tmp_path) == [] and "the checkpoint of step 1 is lost: the learner's" in capsys.readouterr().err
    run = RunCheckpoints(store, RunConf(steps=100, save_every=50), WritesBeside(at_once=True), [])
    for step in (2, 3):
        run.mark_complete(step)
        run.save_if_due(step)  # in its place, not when the next one is due
        store.collect()
    assert names(tmp_path) == ["step_000002"]


def test_a_run_saves_beside_training_but_for_its_last_step_and_where_it_is_told_to(tmp_path: Path) -> None:
    for beside, begun in ((True, [".step_000002.partial", ".step_000004.partial"]), (False, [])):
        store, learner = CheckpointStore(tmp_path / str(beside), Retention(0)), WritesBeside(at_once=True)
        run = RunCheckpoints(store, RunConf(steps=5, save_every=2, save_in_background=beside), learner, [])
        for step in range(1, 6):
            run.mark_complete(step)
            run.save_if_due(step)
        assert learner.begun == begun and store.steps() == [2, 4, 5]


# ---- after an interruption ----


def test_the_last_complete_step_is_saved_once(tmp_path: Path) -> None:
    """Not before the first one, and not again when its checkpoint is there."""
    store = CheckpointStore(tmp_path, Retention(2))
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

    store = CheckpointStore(tmp_path, Retention(2))
    store.save(1, Writes(), STATE)
    store.note(2, STATE)
    with pytest.raises(EndedAtOnce):
        store.save_noted(Writes(ended))
    assert names(tmp_path) == ["step_000001"]
