"""Training at staleness 0, with the batch queue and Ray, equals a plain loop bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.launched import succeeded, thinkless
from tests.helpers.runs import records

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
STEPS = 6


def test_staleness_0_equals_a_plain_loop_bit_for_bit(tiny: list[str], tmp_path: Path) -> None:
    """Losses and final weights, through two Ray samplers on one side and a twenty-line loop on the other."""
    from safetensors.numpy import load_file

    more = ["rollout.prompts_per_step=12", "rollout.workers=2", "rollout.num_cpus=0.2", "run.max_staleness=0"]
    succeeded(thinkless("train", *tiny, *more, f"run.steps={STEPS}", "run.name=ours", folder=tmp_path))
    run = tmp_path / "runs" / "ours"
    plain = subprocess.run(
        [sys.executable, "-m", "tests.helpers.reference_loop", str(run), str(tmp_path / "plain")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert plain.returncode == 0, plain.stderr[-3000:]
    rows = records(run)
    told = [line.split() for line in plain.stdout.splitlines() if line[:1].isdigit()]
    assert len(told) == STEPS
    assert [float(row["loss/total"]).hex() for row in rows] == [loss for _, loss, _ in told]
    assert [round(row["tokens/mean"] * 48) for row in rows] == [int(tokens) for _, _, tokens in told]
    assert all(row["staleness/max"] == 0 and row["no_op"] == 0 for row in rows)
    a, b = load_file(run / "model" / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors")
    assert set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], value) for name, value in load_file(first(run)).items())


def first(run: Path) -> Path:
    """The weights that the run began with."""
    return Path(json.loads((run / "provenance.json").read_text())["model"]) / "model.safetensors"
