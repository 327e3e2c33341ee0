"""Files and folders that are complete as soon as they exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base.files import whole_folder, write_json, write_whole


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_the_place_of_the_one_before_with_nothing_left_of_it(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with whole_folder(tmp_path / "target") as partial:
            assert not list(partial.iterdir())
            (partial / name).write_text(name)
            assert name not in {path.name for path in (tmp_path / "target").glob("*")}
    assert contents(tmp_path) == {"target/new": "new"}


@pytest.mark.parametrize("error", [OSError("the disk\nis full"), RuntimeError("a rank died"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path, error: BaseException) -> None:
    with whole_folder(tmp_path / "target") as partial:
        (partial / "kept").write_text("kept")
    with pytest.raises(type(error)), whole_folder(tmp_path / "target") as partial:
        (partial / "half").write_text("half")
        raise error
    assert contents(tmp_path) == {"target/kept": "kept"}


def test_the_caller_words_the_error_and_gets_its_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(LookupError, match=r"^not saved: the disk; \d+ MiB free$"),
        whole_folder(tmp_path / "target", lambda reason: LookupError(f"not saved: {reason}")),
    ):
        raise OSError("the disk\nis full")


def test_a_remnant_of_a_killed_process_is_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "remnant").write_text("half")
    with whole_folder(tmp_path / "target") as partial:
        (partial / "whole").write_text("whole")
    assert contents(tmp_path) == {"target/whole": "whole"}


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    write_json(tmp_path / "facts.json", {"a": 1})
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "facts.json", "half of it \ud800")
    assert contents(tmp_path) == {"facts.json": '{\n "a": 1\n}'}
