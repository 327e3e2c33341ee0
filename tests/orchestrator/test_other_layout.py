"""A run that goes on where there is nothing left of it but the copies of its checkpoints, under another layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.launched import succeeded, thinkless
from tests.helpers.runs import checkpoints, records
from tests.helpers.s3 import filesystem, s3_server

pytestmark = [pytest.mark.heavy, pytest.mark.bench]


def test_a_run_goes_on_from_its_copies_under_another_layout(tiny: list[str], tmp_path: Path) -> None:
    """Saved by two ranks under ZeRO-2, gone on with by one without ZeRO: the weights are the same to the bit, so the
    same answers are sampled, and the step is that of the run that was left alone, to rounding."""
    with s3_server("bucket") as environment:
        folder = tmp_path / "runs" / "mine"
        settings = ["run.name=mine", "run.steps=6", "run.save_every=2", "run.checkpoints=s3://bucket/runs"]
        two = ["learner.ranks=2", "learner.zero_stage=2", "rollout.num_cpus=0.2", "learner.num_cpus=0.2"]
        succeeded(thinkless("train", *tiny, *settings, *two, folder=tmp_path))
        assert checkpoints(folder) == [4, 6]
        left_alone = records(folder)
        for path in (folder / "config.yaml", folder / "provenance.json"):
            text = path.read_text()
            assert not [value for value in environment.values() if "of-the-tests" in value and value in text]

        s3 = filesystem()
        assert sorted(one["name"].rpartition("/")[2] for one in s3.ls("bucket/runs/mine", detail=True)) == [
            "config.yaml",
            "step_000004",
            "step_000006",
        ]
        s3.rm("bucket/runs/mine/step_000006", recursive=True)
        shutil.rmtree(folder)
        other = ["learner.ranks=1", "learner.zero_stage=0"]
        again = thinkless("train", "resume=s3://bucket/runs/mine", *other, folder=tmp_path)
        succeeded(again)
        assert "the checkpoint of step 4 was fetched from s3://bucket/runs/mine" in again.out
        assert "going on from step 4" in again.out and checkpoints(folder) == [4, 6]
        assert "bucket/runs/mine/step_000006/manifest.json" in filesystem().find("bucket/runs/mine")

    gone_on = records(folder)
    assert [row["step"] for row in gone_on] == [5, 6]
    first, expected = gone_on[0], left_alone[4]
    for key in ("tokens/mean", "reward/mean", "think_rate/all"):
        assert first[key] == expected[key], key
    for key in ("loss/total", "grad_norm"):
        assert first[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key
