"""Files and folders that are complete as soon as they exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.base.files import copy_whole, remove_leftovers, whole_folder, write_json, write_whole
from orchestrator.base.journal import Journal
from orchestrator.tracking.chrome_trace import Trace
from orchestrator.tracking.line_files import drop_after, drop_texts_after
from tests.helpers.killing import killed_everywhere, on_a_full_disk


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


# ---- killed anywhere, or with a full disk: the old content or the new ----


def rewritings(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """Name of a file -> its content before, and what rewrites it."""
    lines = b"".join(b'{"step": %d, "text": "%s"}\n' % (step, b"\xc3\xa9" * 600) for step in range(8))
    samples = b"".join(b"--- step %d, u, level 2\n1+1?\n%s\n\n" % (step, b"\xc3\xa9" * 600) for step in range(8))
    answers = b"".join(b'{"uid": "%d", "side": "x", "sample": 0, "a": "%s"}\n' % (n, b"y" * 1200) for n in range(8))
    event = b'{"name":"' + b"e" * 1200 + b'","ph":"X","ts":%d,"dur":1,"pid":1,"tid":1,"cat":"driver","args":{"step":1}}'
    trace = b"[\n" + b",\n".join(event % at for at in range(8)) + b"\n]\n"
    return {
        "provenance.json": (b'{"a": 1}', lambda path: write_json(path, {"a": "b" * 9000})),
        "metrics.jsonl": (lines + b'{"step": 8, "te', lambda path: drop_after(path, 6)),
        "samples.txt": (samples + b"--- step 8, u\n\xc3", lambda path: drop_texts_after(path, 6)),
        "answers.jsonl": (answers + b'{"uid": "6', Journal),
        "timeline.json": (trace + b',\n{"name":"st', lambda path: Trace(path, {})._file.close()),
        "warmup.json": (b"{}", lambda path: copy_whole(folder / "source", path)),
    }


NAMES = ["provenance.json", "metrics.jsonl", "samples.txt", "answers.jsonl", "timeline.json", "warmup.json"]


def visible(path: Path) -> list[str]:
    return [one.name for one in path.parent.iterdir() if not one.name.startswith(".") and one.name != "source"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one in ("provenance.json", "samples.txt") else pytest.mark.bench) for one in NAMES],
)
def test_a_kill_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_bytes(b"z" * 9000)
    path = tmp_path / name
    before, rewrite = rewritings(tmp_path)[name]
    path.write_bytes(before)
    seen = []
    for _ in killed_everywhere(lambda: rewrite(path)):
        seen.append(path.read_bytes())
        assert visible(path) == [name]
        path.write_bytes(before)
    after = seen[-1]
    cut = {after.rpartition(b",\n")[0]} if name == "timeline.json" else set()  # to which one event is appended then
    assert after != before and set(seen) == {before, after} | cut and len(seen) > 6
    remove_leftovers(tmp_path)
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("most", [0, 1, 4000, 8000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, name: str, most: int) -> None:
    (tmp_path / "source").write_bytes(b"z" * 9000)
    path = tmp_path / name
    before, rewrite = rewritings(tmp_path)[name]
    path.write_bytes(before)
    failed = on_a_full_disk(lambda: rewrite(path), most)
    assert failed and path.read_bytes() == before and not [*tmp_path.glob(".*")]
    assert not on_a_full_disk(lambda: rewrite(path), 1 << 20) and path.read_bytes() != before


def test_a_kill_anywhere_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """The final model is exported beside an earlier one, and takes its place at once."""
    target = tmp_path / "model"

    def export(text: str) -> None:
        with whole_folder(target) as partial:
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                (partial / name).write_text(text)

    export("old")
    seen = []
    for _ in killed_everywhere(lambda: export("new")):
        seen.append(set(contents(target).values()))
        assert len(contents(target)) == 3
        export("old")
    assert seen[0] == {"old"} and seen[-1] == {"new"} and all(len(texts) == 1 for texts in seen)
    assert contents(tmp_path).keys() == {f"model/{name}" for name in contents(target)}


def test_lines_of_finished_steps_are_kept_and_damaged_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1}\n', b'{"step": 2, "a": "\xc3\xa9"}\n']
    bad = [b'{"step": 1\xff}\n', b"7\n", b"[]\n", b'{"step": 1e999}\n', b"\0" * 9 + b"\n", b"[" * 9999 + b"\n"]
    path.write_bytes(good[0] + b"".join(bad) + good[1] + b'{"step": 3}\n' + b'{"step": 2, "a": "\xc3')
    said: list[str] = []
    drop_after(path, 2, said.append)
    assert said == [f"metrics.jsonl: {len(bad)} damaged lines are left out"]
    assert path.read_bytes() == b"".join(good)
    path.write_bytes(good[0] + good[1].rstrip())  # whole, but for its end
    drop_after(path, 2, said.append)
    assert len(said) == 1 and path.read_bytes() == b"".join(good)
