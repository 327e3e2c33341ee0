"""benchmarks/chaos.py: what it would find. (That runs survive it: test_benchmarks, `make test-all`.)"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks._chaos import life as lives
from benchmarks._chaos.blows import VICTIMS, draw
from benchmarks._chaos.course import compare, position
from benchmarks._chaos.damages import damaged
from benchmarks._chaos.life import Hung, Life

STEPS = 4
NONE = frozenset[str]()


@pytest.fixture
def left_alone(tmp_path: Path) -> Path:
    folder = tmp_path / "left-alone"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    steps = range(1, STEPS + 1)
    rows = [{"step": step, "seconds/step": 0.1 * step, "loss/total": 0.5 / step, "answers/think": 8} for step in steps]
    write(folder / "metrics.jsonl", rows)
    write(
        folder / "samples.jsonl", [{"step": s, "uid": f"q{s}-{n}", "response": "7"} for s in (0, 1, 2) for n in (1, 2)]
    )
    (folder / "evaluation.json").write_text(json.dumps({"models": {"final": 0.5}}))
    for name in ("report.html", "config.yaml", "provenance.json"):
        (folder / name).write_text("x")
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def changed(name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        change(rows)
        write(folder / name, rows)

    return apply


@pytest.mark.parametrize(
    ("name", "change", "kind", "told", "exact_alone"),
    [
        ("metrics.jsonl", lambda rows: rows.pop(1), "lost", "step 2 is not in metrics.jsonl", False),
        ("metrics.jsonl", lambda rows: rows.append(rows[2]), "twice", "step 3 is 2 times", False),
        ("metrics.jsonl", lambda rows: rows[3].update({"loss/total": 0.1251}), "wrong", "loss/total differ", True),
        ("samples.jsonl", lambda rows: rows.pop(), "lost", "step 2: no answer to q2-2", False),
        ("samples.jsonl", lambda rows: rows.append(rows[-1] | {"uid": "q7-1"}), "twice", "an answer to q7-1", False),
        ("metrics.jsonl", lambda rows: rows[1].update({"answers/think": 7}), "wrong", "step 2: 7 answers", False),
        ("samples.jsonl", lambda rows: rows[3].update(response="8"), "wrong", "has other answers", True),
    ],
)
def test_what_differs_is_found(
    left_alone: Path, name: str, change: Any, kind: str, told: str, exact_alone: bool
) -> None:
    mine = left_alone.with_name("mine")
    shutil.copytree(left_alone, mine)
    changed("metrics.jsonl", lambda rows: [row.update({"seconds/step": 9.0}) for row in rows])(mine)  # of the machine
    for exact in (True, False):
        found = compare(mine, left_alone, exact, STEPS, NONE)
        assert not (found.lost or found.twice or found.wrong)
    changed(name, change)(mine)
    assert any(told in line for line in getattr(compare(mine, left_alone, True, STEPS, NONE), kind))
    ahead = getattr(compare(mine, left_alone, False, STEPS, NONE), kind)
    assert bool(ahead) is not exact_alone
    but = compare(mine, left_alone, True, STEPS, frozenset({name}))  # it was damaged, and that was said
    assert not (but.lost or but.twice or but.wrong)


def test_other_weights_figures_and_missing_files_are_found(left_alone: Path) -> None:
    mine = left_alone.with_name("mine")
    shutil.copytree(left_alone, mine)
    (mine / "model" / "model.safetensors").write_bytes(b"weightz")
    (mine / "evaluation.json").write_text(json.dumps({"models": {"final": 0.25}}))
    (mine / "report.html").unlink()
    found = compare(mine, left_alone, True, STEPS, NONE)
    assert found.wrong == ["the final weights differ", "evaluation.json has other figures"]
    assert found.lost == ["report.html is not there"]


def test_every_line_of_a_run_is_progress(left_alone: Path) -> None:
    before = position(left_alone)
    assert position(left_alone) == before
    with (left_alone / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert position(left_alone) != before


def test_blows_depend_on_the_seed_alone_and_meet_everybody() -> None:
    one, same = ([str(draw(rng)) for _ in range(400)] for rng in (random.Random("0-1"), random.Random("0-1")))
    assert one == same and {draw(random.Random(n)).who for n in range(400)} == {who for who, *_ in VICTIMS}


def test_damage_is_named_by_its_file_or_step_and_can_be_undone(left_alone: Path) -> None:
    state = left_alone / "checkpoints" / "step_000003" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"step": 3}')
    before = {path: path.read_bytes() for path in left_alone.rglob("*") if path.is_file()}
    for seed in range(60):
        damage = damaged(left_alone, random.Random(seed))
        assert damage is not None
        path = left_alone / damage.name
        assert not path.is_file() or path.read_bytes() != before[path] or damage.kind == "zeros"
        told = "step_000003" if "step" in damage.name else path.name
        assert damage.names_it([f"warning: {left_alone}/{told} is damaged"]) and not damage.names_it(["step 4 is done"])
        damage.restore()
        assert {path: path.read_bytes() for path in left_alone.rglob("*") if path.is_file()} == before


def test_a_life_knows_its_processes_and_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "GONE_S", 0.5)
    monkeypatch.setattr(lives, "LIMIT_S", 1.0)
    monkeypatch.setattr(lives, "COMMAND", ["bash", "-c", "exec -a x/raylet sleep 600 & exec sleep 600"])
    life = Life([], tmp_path)
    try:
        assert life.until(lambda: bool(life.victims("raylet")), "its child")
        with pytest.raises(Hung, match=r"^waited 1 s for a step$"):
            life.until(lambda: False, "a step")
        os.kill(life.victims("driver")[0], signal.SIGKILL)
        life.process.wait()
        (raylet,) = life.victims("raylet")
        assert life.left() == ["x/raylet 600"]
        end = time.monotonic() + 30
        while raylet in life.alive() and time.monotonic() < end:
            time.sleep(0.05)
        assert not life.alive() and not life.victims("driver")
    finally:
        life.close()
