"""Training at staleness 0, with the batch queue and Ray, equals a plain loop bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conf.compose import from_file
from tests.helpers.runs import records

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


def test_staleness_0_equals_a_plain_loop_bit_for_bit(colocated: Path, tmp_path: Path) -> None:
    """Losses and final weights, through two Ray samplers and two learner ranks on one side and a twenty-line loop on
    the other."""
    from safetensors.numpy import load_file

    plain = subprocess.run(
        [sys.executable, "-m", "tests.helpers.reference_loop", str(colocated), str(tmp_path / "plain")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert plain.returncode == 0, plain.stderr[-3000:]
    rows, rollout = records(colocated), from_file(colocated / "config.yaml", []).rollout
    answers = rollout.prompts_per_step * rollout.group_size
    told = [line.split() for line in plain.stdout.splitlines() if line[:1].isdigit()]
    losses = [row.get("loss/total") for row in rows]
    assert ["none" if loss is None else float(loss).hex() for loss in losses] == [loss for _, loss, _ in told]
    assert sum(loss is not None for loss in losses) >= 6
    assert [round(row["tokens/mean"] * answers) for row in rows] == [int(tokens) for _, _, tokens in told]
    assert all(row["staleness/max"] == 0 and row["no_op"] == ("loss/total" not in row) for row in rows)
    a, b = (load_file(folder / "model.safetensors") for folder in (colocated / "model", tmp_path / "plain"))
    assert set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], value) for name, value in load_file(first(colocated)).items())


def first(run: Path) -> Path:
    """The weights that the run began with."""
    return Path(json.loads((run / "provenance.json").read_text())["model"]) / "model.safetensors"
