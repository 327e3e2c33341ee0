"""The object store's size: by the arrays that really lie in it, and the lines that say where it is too small."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from conf.choices import Dtype
from conf.compose import composed
from conf.schema import AlgorithmConf, Config
from orchestrator.cluster import object_store
from orchestrator.cluster.object_store import GIB, SPARE, needed, note_smaller, sized, weight_bytes
from rollout.convert import rollout_result
from rollout.engine import Sample
from rollout.mode import ControlTokens
from rollout.request import RolloutRequest, SamplingParams
from tests.helpers.learner_ranks import train_batch
from tests.helpers.prompts import make_prompts

ROOM = shutil.disk_usage("/")._replace(free=2**50)
PRESET = ["model.path=/models/1p5b", "experiment=thinkless_1p5b"]


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/shm and the memory have room, whatever this machine's have."""
    monkeypatch.setattr(object_store, "machine_memory", lambda: 2**50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: ROOM)


def test_the_bytes_of_a_token_are_those_of_the_arrays(control: ControlTokens) -> None:
    (row, *_) = train_batch(1, 1, AlgorithmConf(optimizer_steps=1)).ranks[0]
    assert sum(array.nbytes for array in row.arrays()) == object_store.ROW_BYTES * len(row.token_ids)
    ids = np.arange(50, dtype=np.int32)
    sample = Sample(ids, np.zeros(50, np.float32), ids, True, False)
    request = RolloutRequest(1, 0, 0, tuple(make_prompts(1)), ((0, 0),), SamplingParams(1.0, 1.0, 50))
    columns = rollout_result(request, {0: sample}, control, None)
    arrays = columns.token_ids, columns.behavior_logprobs, columns.versions
    assert sum(array.nbytes for array in arrays) == object_store.RESULT_BYTES * len(ids)


def test_the_papers_batch_takes_over_a_gigabyte() -> None:
    """1024 answers of up to 24,576 tokens after prompts of up to 1,024; weights go from GPU to GPU."""
    conf = composed([*PRESET, "run.max_staleness=0", "rollout.max_restarts=0"])
    rows, results = 1024 * (24576 + 1024) * 38, 1024 * 24576 * 12
    assert 1.29e9 < rows + results < 1.31e9
    assert needed(conf, {"hidden_size": 1536}) == int(SPARE * (rows + results))
    assert sized(conf).object_store_gib == pytest.approx(SPARE * (rows + results) / GIB, abs=0.01)
    ahead = replace(conf, run=replace(conf.run, max_staleness=2))
    assert needed(ahead) == int(SPARE * (rows + 3 * results))
    assert needed(conf, evaluated=240) == int(SPARE * (rows + results + 240 * 24576 * 12))
    assert needed(conf, evaluated=240, training=False) == int(SPARE * 240 * 24576 * 12)


def test_weights_count_where_they_go_through_it(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    with safe_open(tiny_model / "model.safetensors", "np") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
    held = weight_bytes(config, Dtype.float32)
    assert held == 2 * weight_bytes(config, Dtype.bfloat16)
    assert held < sum(sizes.values()) < SPARE * held
    conf = Config()
    assert needed(conf, config) - needed(conf) == pytest.approx(SPARE * 2 * held, abs=2)
    shape = {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2}
    untied = {**shape, "intermediate_size": 8960, "vocab_size": 151936}
    assert weight_bytes(untied, Dtype.bfloat16) / 2 == pytest.approx(1.777e9, rel=1e-3)
    split = [*PRESET, "cluster.placement=disaggregated", "rollout.workers=2", "learner.ranks=2"]
    gpus = composed([*split, "rollout.max_restarts=0", "cluster.transport=object_store"])
    assert needed(gpus, untied) - needed(gpus) == pytest.approx(SPARE * 4 * 1.777e9, rel=1e-3)
    direct, restarts = (composed([*split, f"rollout.max_restarts={times}"]) for times in (0, 1))
    assert needed(direct, untied) == needed(direct)  # from GPU to GPU
    assert needed(restarts, untied) == needed(gpus, untied)  # a copy is kept for a sampler that starts again
    learner, adapters = (composed([*split, "learner.max_restarts=1", f"model.lora.rank={rank}"]) for rank in (0, 8))
    assert needed(learner, untied) - needed(learner) == pytest.approx(SPARE * 24 * 1.777e9, rel=1e-3)  # two copies
    assert needed(adapters, untied) == needed(adapters)


def test_a_small_run_has_the_size_that_it_had(capsys: pytest.CaptureFixture[str]) -> None:
    assert sized(Config()).object_store_gib == object_store.LEAST_GIB == 0.5
    assert capsys.readouterr().err == ""


def test_a_setting_that_is_too_small_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    conf, larger = (composed([*PRESET, f"cluster.object_store_gib={gib}"]) for gib in (0.5, 60))
    capsys.readouterr()
    assert sized(conf).object_store_gib == 0.5
    said = capsys.readouterr().err
    assert said.startswith(
        f"thinkless: cluster.object_store_gib=0.5 is less than the {needed(conf) / GIB:.2f} GiB that"
    )
    assert "leave the setting out" in said and said.count("\n") == 1
    sized(larger)
    assert capsys.readouterr().err == ""


def test_shared_memory_that_is_too_small_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with Docker's 64 MB; not where Ray is joined, whose memory is elsewhere."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: ROOM._replace(free=64 * 2**20))
    sized(Config())
    said = capsys.readouterr().err
    assert said.startswith("thinkless: Ray's object store of 0.50 GiB does not fit into /dev/shm (0.06 GiB free)")
    assert "--shm-size=2g" in said and said.count("\n") == 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    sized(Config())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "free, memory, least, most",
    [(64 * 2**20, 2**40, 9e9, 1e10), (2 * 2**30, 2**40, 1.9e9, 2 * 2**30), (2**50, 8 * 2**30, 4.2e9, 4.3e9)],
)
def test_a_computed_store_is_one_that_ray_starts_with(
    free: int,
    memory: int,
    least: float,
    most: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray refuses one above 10^10 bytes that does not fit into /dev/shm, and one larger than the memory."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(object_store.SLOW_ALLOWED, raising=False)
    conf = composed([*PRESET, "rollout.prompts_per_step=1024"])
    assert needed(conf) > 1e10
    monkeypatch.setattr(shutil, "disk_usage", lambda path: ROOM._replace(free=free))
    monkeypatch.setattr(object_store, "machine_memory", lambda: memory)
    size = sized(conf).object_store_gib
    said = capsys.readouterr().err
    assert size is not None and least < size * GIB <= most
    assert f"has {size:.2f} GiB, and this run may need {needed(conf) / GIB:.2f}" in said
    assert ("slower file" in said) == (free < size * GIB) and "does not start" not in said
    set_by_hand = replace(conf, cluster=replace(conf.cluster, object_store_gib=20.0))
    assert sized(set_by_hand).object_store_gib == 20.0
    assert ("does not start" in capsys.readouterr().err) == (free < 20 * GIB)


def test_a_joined_rays_store_that_is_too_small_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    conf = replace(Config().cluster, object_store_gib=2.0)
    note_smaller(1.0, conf, "head")
    said = capsys.readouterr().err
    assert "joined Ray on this host (head) has 1.00 GiB, and this run may need 2.00" in said
    assert f"--object-store-memory={2 * GIB}" in said
    note_smaller(2.0, conf, "head")
    note_smaller(0.1, Config().cluster, "head")  # nothing was computed
    assert capsys.readouterr().err == ""
