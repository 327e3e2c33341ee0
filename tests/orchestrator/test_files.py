"""Files and folders that are complete as soon as they exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base.files import whole_folder, write_json, write_whole


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_replaces_the_previous_one_completely(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with whole_folder(tmp_path / "target") as partial:
            assert not list(partial.iterdir())
            (partial / name).write_text(name)
            assert name not in {path.name for path in (tmp_path / "target").glob("*")}
    assert contents(tmp_path) == {"target/new": "new"}


@pytest.mark.parametrize("error", [OSError("the disk\nis full"), RuntimeError("a rank died"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_previous_folder(tmp_path: Path, error: BaseException) -> None:
    with whole_folder(tmp_path / "target") as partial:
        (partial / "kept").write_text("kept")
    with pytest.raises(type(error)), whole_folder(tmp_path / "target") as partial:
        (partial / "half").write_text("half")
        raise error
    assert contents(tmp_path) == {"target/kept": "kept"}


def test_the_callers_error_is_raised_with_the_disks_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(LookupError, match=r"^not saved: the disk; \d+ MiB free$"),
        whole_folder(tmp_path / "target", lambda reason: LookupError(f"not saved: {reason}")),
    ):
        raise OSError("the disk\nis full")


def test_leftovers_of_a_killed_process_are_not_reused(tmp_path: Path) -> None:
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "remnant").write_text("half")
    with whole_folder(tmp_path / "target") as partial:
        (partial / "whole").write_text("whole")
    assert contents(tmp_path) == {"target/whole": "whole"}


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path) -> None:
    write_json(tmp_path / "facts.json", {"a": 1})
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "facts.json", "half of it \ud800")
    assert contents(tmp_path) == {"facts.json": '{\n "a": 1\n}'}
