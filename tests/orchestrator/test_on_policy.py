"""Strictly on-policy training, with all the machinery for running ahead, is bit for bit the plain loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


def test_no_staleness_is_the_plain_loop_bit_for_bit(on_policy: Any, tmp_path: Path) -> None:
    """Losses and final weights, through two Ray samplers on one side and a twenty-line loop on the other."""
    from safetensors.numpy import load_file

    run = on_policy.run
    plain = subprocess.run(
        [sys.executable, "-m", "tests.helpers.reference_loop", str(run), str(tmp_path / "plain")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert plain.returncode == 0, plain.stderr[-3000:]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "seconds/step" in row]
    told = [line.split() for line in plain.stdout.splitlines() if line[:1].isdigit()]
    assert len(told) == on_policy.steps
    assert [float(row["loss/total"]).hex() for row in rows] == [loss for _, loss, _ in told]
    assert [round(row["tokens/mean"] * 48) for row in rows] == [int(tokens) for _, _, tokens in told]
    assert all(row["staleness/max"] == 0 and row["no_op"] == 0 for row in rows)
    a, b = load_file(run / "model" / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors")
    assert set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], value) for name, value in load_file(first(run)).items())


def first(run: Path) -> Path:
    """The weights that the run began with."""
    return Path(json.loads((run / "provenance.json").read_text())["model"]) / "model.safetensors"
