"""Copies of checkpoints at an address: complete or none, kept and dropped like the checkpoints, and back from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import RunError
from orchestrator.training.checkpoint import CheckpointStore, NoneVerifies
from orchestrator.training.copies import Copies, bring
from orchestrator.training.retention import Retention
from rollout.base.errors import BadInput
from tests.helpers.s3 import filesystem, s3_server

STATE = {"prompts": {"position": 48}}


class Writes:
    """A learner that saves two files, different ones at each step."""

    def save(self, folder: str) -> dict[str, tuple[int, str]]:
        name = Path(folder).name
        (Path(folder) / "weights").write_text(name * 100)
        (Path(folder) / "adapter").mkdir()
        (Path(folder) / "adapter" / "more").write_text(name)
        return {}


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server("bucket"):
        yield filesystem()


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, s3: Any, tmp_path: Path) -> str:
    return f"s3://bucket/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/there"


def listed(address: str) -> list[str]:
    """Every file below an address, with its path from there."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(address)
    system.invalidate_cache()
    return sorted(one.partition(f"{root}/")[2] for one in system.find(root))


def a_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("run: {}")
    return folder


def store_of(folder: Path, address: str, keep: Retention | None = None) -> CheckpointStore:
    keep = keep or Retention(2)
    return CheckpointStore(folder, keep, copies=Copies(address, folder, keep))


def with_two_checkpoints(folder: Path, address: str) -> Path:
    """A run of steps 10 and 20, and their copies."""
    store = store_of(a_run(folder), address)
    for step in (10, 20):
        store.save(step, Writes(), STATE)
    store.finish()
    return folder


def files(step: int) -> list[str]:
    return [f"mine/step_{step:06d}/{name}" for name in ("adapter/more", "manifest.json", "state.json", "weights")]


def test_copies_are_made_and_dropped_like_the_checkpoints(tmp_path: Path, address: str) -> None:
    """Those of an earlier process as well, whose folder is lost; and a step that is saved again is copied again."""
    for saved, kept in (((10, 20, 30, 40, 50), (20, 40, 50)), ((60, 60), (20, 40, 50, 60))):
        folder = a_run(tmp_path / "mine")
        store = store_of(folder, address, Retention(2, every=20))
        if saved[0] == 10:
            assert store.copies is not None
            store.copies.begin_run()
            assert listed(address) == ["mine/config.yaml"]
        for step in saved:
            store.save(step, Writes(), STATE)
        store.finish()
        shutil.rmtree(folder)
        assert listed(address) == ["mine/config.yaml", *(name for step in kept for name in files(step))]


def test_a_checkpoint_that_this_machine_lacks_is_fetched(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_two_checkpoints(tmp_path / "mine", address)
    whole = (folder / "checkpoints" / "step_000020" / "adapter" / "more").read_bytes()
    for break_it in (
        lambda: shutil.rmtree(folder / "checkpoints"),
        lambda: (folder / "checkpoints" / "step_000020" / "weights").write_text("else"),
    ):
        break_it()
        found = store_of(folder, address).latest()
        assert found == (folder / "checkpoints" / "step_000020", {"step": 20, **STATE})
        assert (found[0] / "adapter" / "more").read_bytes() == whole
        assert f"the checkpoint of step 20 was fetched from {address}/mine" in capsys.readouterr().out
    assert store_of(folder, address).latest() == found and "fetched" not in capsys.readouterr().out


def test_a_damaged_copy_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fsspec.core import url_to_fs

    folder = with_two_checkpoints(tmp_path / "mine", address)
    shutil.rmtree(folder / "checkpoints")
    system, root = url_to_fs(f"{address}/mine")
    system.pipe_file(f"{root}/step_000020/weights", b"else" * 500)
    found = store_of(folder, address).latest()
    assert found is not None and found[1]["step"] == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert f"its copy in {address}/mine, of step 20, is damaged and not used: weights is not what" in line
    shutil.rmtree(folder / "checkpoints")
    system.pipe_file(f"{root}/step_000010/state.json", b"")
    with pytest.raises(NoneVerifies, match=r"step 10: state\.json has 0 bytes.*step 20: weights is not"):
        store_of(folder, address).latest()


def test_a_copy_without_its_manifest_is_none(tmp_path: Path, address: str) -> None:
    """What a kill leaves while it is copied, or dropped; the next checkpoint copies it again."""
    from fsspec.core import url_to_fs

    folder = a_run(tmp_path / "mine")
    store = store_of(folder, address)
    store.save(10, Writes(), STATE)
    store.finish()
    system, root = url_to_fs(f"{address}/mine")
    system.rm_file(f"{root}/step_000010/manifest.json")
    system.pipe_file(f"{root}/step_000010/rank_7", b"of another layout")
    assert Copies(address, folder, Retention(2)).steps() == set()
    store.save(20, Writes(), STATE)
    store.finish()
    assert listed(address) == ["mine/config.yaml", *files(10), *files(20)]


def test_what_cannot_be_copied_is_said_and_copied_with_the_next(
    tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bucket that is not there, for a while. The run goes on, and ends with an error if it stays so."""
    address, folder = f"s3://{tmp_path.name.replace('_', '-')}/runs", a_run(tmp_path / "mine")
    with pytest.raises(
        RunError, match=r"run\.checkpoints: s3://.*/runs/mine: cannot be listed \(\w+: .*bucket"
    ) as told:
        Copies(address, folder, Retention(2)).begin_run()
    assert "\n" not in str(told.value)
    store = store_of(folder, address)
    store.save(10, Writes(), STATE)
    store.collect()
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be listed" in line and line.endswith("it is tried again with the next checkpoint")
    with pytest.raises(RunError, match=r"the checkpoints are in .*mine/checkpoints: copy them there"):
        store.finish()
    s3.mkdir(address.split("/")[2])
    store.save(20, Writes(), STATE)
    store.finish()
    assert listed(address) == ["mine/config.yaml", *files(10), *files(20)]


def test_the_best_is_kept_by_the_states_that_are_there(tmp_path: Path, address: str) -> None:
    folder, keep = a_run(tmp_path / "mine"), Retention(1, best="accuracy")
    for step, accuracy in ((10, 0.9), (20, 0.5), (30, 0.7)):
        store = store_of(folder, address, keep)
        store.save(step, Writes(), {"validated": step, "validation": {"accuracy": accuracy}})
        store.finish()
        shutil.rmtree(folder / "checkpoints")
    assert listed(address) == ["mine/config.yaml", *files(10), *files(30)]


def test_a_run_of_which_nothing_else_is_left_is_brought_here(tmp_path: Path, address: str) -> None:
    """Its configuration; what is here already is not touched."""
    folder = with_two_checkpoints(tmp_path / "mine", address)
    here = bring(f"{address}/mine/", tmp_path / "elsewhere")
    assert here == tmp_path / "elsewhere" / "mine"
    assert [path.name for path in here.iterdir()] == ["config.yaml"]
    assert (here / "config.yaml").read_bytes() == (folder / "config.yaml").read_bytes()
    assert bring(f"{address}/mine", tmp_path / "elsewhere") == here
    changed = f"run: {{steps: 7, checkpoints: '{address}/'}}"
    (here / "config.yaml").write_text(changed)
    assert bring(f"{address}/mine", tmp_path / "elsewhere") == here
    assert (here / "config.yaml").read_text() == changed
    (here / "config.yaml").write_text("run: {steps: 7, checkpoints: null}")
    with pytest.raises(
        BadInput, match=r"elsewhere/mine is another run of that name, whose run.checkpoints is null: move"
    ):
        bring(f"{address}/mine", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"^resume=\S+/yours: no config.yaml is there, so it holds no copies of a run$"):
        bring(f"{address}/yours", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "yours").exists()


def test_an_address_that_cannot_be_used_is_one_line(tmp_path: Path, address: str) -> None:
    folder = a_run(tmp_path / "mine")
    store = store_of(folder, address)
    store.save(10, Writes(), STATE)
    store.finish()
    with pytest.raises(BadInput, match=r"holds checkpoints of another run \(the newest of step 10\): choose another"):
        Copies(address, folder, Retention(2)).begin_run()
    with pytest.raises(BadInput, match=r"run\.checkpoints: nowhere://x/mine: unknown kind of address nowhere://"):
        Copies("nowhere://x", folder, Retention(2)).steps()
    assert json.loads((folder / "checkpoints" / "step_000010" / "state.json").read_text())["step"] == 10
