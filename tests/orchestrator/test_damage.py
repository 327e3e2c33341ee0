"""Damage to the text files of a run folder: every command that reads one goes on, or ends with one line that names it.

Nothing here starts Ray. `benchmarks/damage.py` does the same at random, and compares what the commands make of it.
Recorded steps have their own digests (test_replay), checkpoints theirs (test_checkpoint).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks._damage.commands import COMMANDS, OURS, without_ray
from benchmarks._damage.folder import FILES, MINE, STEPS, build
from benchmarks._damage.kinds import KINDS, damage
from orchestrator.base.line import written
from orchestrator.report import damage as found
from orchestrator.report.read import records
from tests.helpers.watched import record

CASES = [  # three kinds of each file, and the others in `make test-all`
    pytest.param(name, kind, marks=[] if (at + nth) % len(KINDS) in (0, 3, 5) else pytest.mark.bench)
    for nth, name in enumerate(FILES)
    for at, kind in enumerate(KINDS)
]


@pytest.fixture(scope="module")
def original(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole") / "runs"
    build(runs, tiny_model)
    return runs


@pytest.fixture
def runs(original: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    copy = tmp_path / "runs"
    shutil.copytree(original, copy, symlinks=True)
    return copy


@pytest.fixture(autouse=True)
def no_ray() -> Iterator[None]:
    with without_ray():
        yield


def survived(runs: Path, name: str | None = None) -> dict[str, str]:
    """Every command that reads the file (None: every one): what it ended with, "" if in order. Fails for an error that
    is no line of ours, or that names neither the file nor its folder."""
    said = {}
    for command, (call, files) in COMMANDS.items():
        if name is not None and name not in files:
            continue
        try:
            call(runs / MINE)
            said[command] = ""
        except OURS as error:
            said[command] = str(error)
            assert name and (Path(name).name in said[command] or MINE in said[command]), (command, error)
    return said


def test_an_intact_folder_has_nothing_to_say(runs: Path, capsys: Any) -> None:
    assert found.damage(runs / MINE) == []
    assert survived(runs) == dict.fromkeys(COMMANDS, "")
    err = capsys.readouterr().err
    assert "damaged" not in err and "as the run left" not in err


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_damaged_file_is_named_or_harmless(runs: Path, name: str, kind: str, capsys: Any) -> None:
    damage(runs / MINE / name, kind, random.Random(f"{name} {kind}"))
    said = survived(runs, name)
    err = capsys.readouterr().err
    if name == "config.yaml" and kind not in ("delete", "folder"):
        assert all("config.yaml" in said[command] for command in ("plan", "export", "chat", "resume"))
    if name in ("provenance.json", "evaluation.json") and kind not in ("delete", "twice"):
        assert f"{name} is damaged" in err and not said["resume"] and not said["report"]


# ---- lines ----


def test_a_digit_that_changed_in_a_line_is_noticed(runs: Path) -> None:
    path = runs / MINE / "metrics.jsonl"
    data = path.read_bytes()
    for seed in range(40):
        damage(path, "digit", random.Random(seed))
        assert len([*records(path)]) == STEPS - 1
        assert found.damage(runs / MINE) == ["metrics.jsonl: 1 damaged line is left out"]
        path.write_bytes(data)


def test_lines_of_earlier_versions_pass(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record(step)) + "\n" for step in (1, 2)))
    assert [one["step"] for one in records(path)] == [1, 2] and found.damage(tmp_path, ["metrics.jsonl"]) == []
    path.write_bytes(path.read_bytes() + written(record(3)))
    assert [*records(path)] == [record(step) for step in (1, 2, 3)]  # without the checksum


def test_steps_without_a_line_are_named_while_the_run_is_under_way(tmp_path: Path) -> None:
    lines = [written(record(step)) for step in (1, 2, 5)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    assert found.damage(tmp_path, ["metrics.jsonl"]) == ["metrics.jsonl lacks step 3 and 1 more"]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    assert found.damage(tmp_path, ["metrics.jsonl"]) == []
    (tmp_path / "checkpoints" / "step_000003").mkdir(parents=True)
    assert found.damage(tmp_path, ["metrics.jsonl"]) == ["metrics.jsonl lacks step 3"]


def test_a_file_that_a_killed_run_must_have_begun_is_missing(tmp_path: Path) -> None:
    """No session has noted at its end what it left."""
    assert found.damage(tmp_path) == []
    (tmp_path / "checkpoints" / "step_000003").mkdir(parents=True)
    assert found.damage(tmp_path) == [
        f"{name} is missing" for name in ("metrics.jsonl", "samples.jsonl", "samples.txt")
    ]
    for name in ("metrics.jsonl", "samples.txt"):
        (tmp_path / name).write_bytes(b"".join(written(record(step)) for step in (1, 2, 3)))
    assert found.damage(tmp_path, found.TOGETHER) == ["samples.jsonl is missing"]


@pytest.mark.parametrize("steps", [(), (0, 1, 2), (0, 1, 3, 4, 5)])
def test_answers_that_only_one_of_two_files_has_are_named(tmp_path: Path, steps: Sequence[int]) -> None:
    """Up to the last checkpoint; a kill may come between the two."""
    lines, texts = tmp_path / "samples.jsonl", tmp_path / "samples.txt"

    def write(mine: Sequence[int], other: Sequence[int]) -> None:
        lines.write_bytes(b"".join(written(record(step)) for step in mine))
        texts.write_text("".join(f"--- step {step}, level 2, short\n5\n" for step in other))

    write(steps, range(6))
    assert found.damage(tmp_path, found.SAMPLES) == []
    (tmp_path / "checkpoints" / "step_000004").mkdir(parents=True)
    (said,) = found.damage(tmp_path, found.SAMPLES)
    assert said.startswith("samples.jsonl lacks step ")
    write(range(6), steps)
    (said,) = found.damage(tmp_path, found.SAMPLES)
    assert said.startswith("samples.txt lacks step ")
    write(range(5), range(5))
    assert found.damage(tmp_path, found.SAMPLES) == []


@pytest.mark.parametrize("name", ["samples.txt", "timeline.json", "samples.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["empty", "delete", "lost", "digit"])
def test_what_a_run_left_is_compared_with_what_it_noted_at_its_end(runs: Path, name: str, kind: str) -> None:
    damage(runs / MINE / name, kind, random.Random(1))
    (said,) = found.damage(runs / MINE)
    assert said.startswith(name)
