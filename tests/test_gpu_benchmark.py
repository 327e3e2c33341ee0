"""benchmarks/gpu.py as on a bare image, without the libraries that it promises not to need; resumed; a failing part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._gpu import parts
from benchmarks._gpu.parts import Part

ROOT = Path(__file__).parents[1]
ABSENT = ("ray", "vllm", "hydra", "omegaconf", "datasets", "peft")
BARE = f"""
import importlib.machinery, importlib.util, runpy, sys
found = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT!r} else found(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
assert importlib.util.find_spec("ray") is None
sys.argv[:1] = ["benchmarks/gpu.py"]
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def called(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", BARE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.heavy
@pytest.mark.bench
def test_small_form_needs_neither_ray_nor_vllm_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    printed = called("--small", "--out", str(out))
    values = {line["figure"]: line["value"] for line in printed}
    assert values["ipc_equal"] == values["offload_equal"] == 1.0
    assert {"mfu", "gpu_peak_over_plan", "attention_grad_error_ragged", "learner_mismatch_p999", "ipc_left_mib"} <= set(
        values
    )
    heads = values["head_error"], values["head_error_bfloat16"]
    assert isinstance(heads[0], float) and isinstance(heads[1], float) and heads[0] < 1e-4 and heads[1] > 1e-3
    for name in ("accumulation_error_zero1", "accumulation_error_zero2"):
        error = values[name]
        assert isinstance(error, float) and error < 0.003
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["figure"] for line in kept if "figure" in line] == list(values)
    ended = {line["part"] for line in kept if line.get("finished")}
    assert ended == {"attention", "learner", "accumulation", "offload", "ipc", "mismatch", "sampler"}
    assert called("--small", "--out", str(out)) == []


def fails(small: bool) -> None:
    raise ValueError("as it was asked to")


def hangs(small: bool) -> None:
    import time

    time.sleep(600)


def works(small: bool) -> None:
    from benchmarks._figures import figure

    figure("works_at_all", 1.0, "share", 1.0)


def test_a_part_that_fails_or_hangs_takes_only_itself(tmp_path: Path) -> None:
    out, shown = tmp_path / "gpu.jsonl", list[str]()
    made = [
        Part(name, f"{__name__}:{name}", 0, 2 if name == "hangs" else 60, "") for name in ("fails", "hangs", "works")
    ]
    assert parts.run(made, True, out, shown.append) == ["fails", "hangs"]
    assert [json.loads(line)["figure"] for line in shown] == ["works_at_all"]
    assert parts.finished(out, True) == {"works"} and parts.finished(out, False) == set()
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["part"], line.get("why")) for line in kept if line.get("finished") is False] == [
        ("fails", "exit code 1"),
        ("hangs", "ran past its 2 s"),
    ]
