"""A learner rank: nonfinite gradients, publishing, checkpoints, export, log-probs, use of /dev/shm, rejected models."""

from __future__ import annotations

import json
import math
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import AlgorithmConf, Dtype, LearnerConf, ModelConf, Schedule
from learner.data.batch import MicroBatch, TrainBatch
from learner.data.pack import pack
from learner.model.policy import load_policy
from learner.objective import optimizer_steps
from learner.schedule import learning_rate
from learner.worker import LearnerWorker
from rollout.base.errors import BadInput
from tests.helpers import naive
from tests.helpers.learner_ranks import Ranks, held, joined, train_batch
from tests.helpers.seldom import seldom

CONF = LearnerConf(lr=0.01, logprob_chunk=16)
ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
FLOAT, BFLOAT = ModelConf(), ModelConf(dtype=Dtype.bfloat16)
LAYOUTS = [(1, 0, FLOAT), (2, 0, FLOAT), (2, 1, FLOAT), (2, 3, FLOAT), (2, 1, BFLOAT), (2, 2, BFLOAT)]
REST = [(2, 0, FLOAT), (2, 1, FLOAT), (2, 1, BFLOAT)]  # with `make test-all`
every_layout = pytest.mark.parametrize(
    ("count", "stage", "model"),
    [seldom(*one) if one in REST else one for one in LAYOUTS],
    ids=[f"{count}-{stage}-{model.dtype.value}" for count, stage, model in LAYOUTS],
)


batch = partial(train_batch, algorithm=ALGORITHM)


def poisoned(whole: TrainBatch, value: float) -> TrainBatch:
    """`value` as the advantages of one micro-batch of the last rank."""
    *others, (first, *rest) = whole.ranks
    bad = replace(first, advantages=np.full_like(first.advantages, value))
    return replace(whole, ranks=(*others, (bad, *rest)))


def on_disk(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_a_rank_listens_at_the_address_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the host's own name resolves to, and nowhere else; a single rank, whom nobody joins, at loopback."""
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    for ranks, where in ((2, "127.0.0.77"), (1, "127.0.0.1")):
        worker = LearnerWorker(replace(CONF, ranks=ranks), FLOAT, "a model", 0, 1.0, 1, host=lambda: "127.0.0.77")
        host, port = worker.address(None)
        assert host == where and worker._listener is not None and worker._listener.getsockname() == (where, port)
        with pytest.raises(OSError, match="in use"):
            worker.address(port)


@pytest.mark.parametrize(
    ("count", "stage", "model", "value"),
    [*(seldom(*one, math.nan) if one in REST else (*one, math.nan) for one in LAYOUTS), (2, 3, FLOAT, math.inf)],
    ids=[*(f"{count}-{stage}-{model.dtype.value}-nan" for count, stage, model in LAYOUTS), "2-3-float32-inf"],
)
def test_nonfinite_gradients_change_nothing(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf, value: float
) -> None:
    """One bad rank: no rank moves, the step is counted, moments stay as they were; three in a row stop the run."""
    ranks = groups_of_ranks[count]
    conf = replace(CONF, ranks=count, zero_stage=stage)
    good, worse = batch(1, count), poisoned(batch(2, count), value)
    ranks.start(conf, models["untied"], models["untied-reference"], model=model)
    for seed in (1, 3):
        ranks.scatter("update", [batch(seed, count)], ALGORITHM)
    want = ranks.digests()

    ranks.start(conf, models["untied"], models["untied-reference"], model=model)
    start = ranks.digests()
    for skipped in (1, 2):
        reports = ranks.scatter("update", [worse], ALGORITHM)
        assert all((r.skipped, r.updates) == (1, skipped) for r in reports)
        assert ranks.digests() == start
    assert all(r.skipped == 0 for r in ranks.scatter("update", [good], ALGORITHM))  # the count in a row starts anew
    for _ in range(2):
        ranks.scatter("update", [worse], ALGORITHM)
    ranks.scatter("update", [batch(3, count)], ALGORITHM)
    assert ranks.digests() == want
    for in_a_row in (1, 2, 3):
        reports = ranks.scatter("update", [worse], ALGORITHM)
        assert all(r.bad_in_a_row == in_a_row for r in reports)
    assert ranks.digests() == want


@pytest.mark.parametrize(
    ("count", "stage", "model"),
    [
        *[(1, 0, "tied"), (2, 2, "untied"), (2, 3, "tied")],
        *[seldom(1, 0, "untied"), seldom(2, 2, "tied"), seldom(2, 3, "untied")],
    ],
)
def test_published_weights_are_the_models(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: str
) -> None:
    """Under the names that a sampler knows, lm_head.weight always among them, bit by bit; from rank 0 alone."""
    ranks = groups_of_ranks[count]
    parameters = ranks.start(replace(CONF, ranks=count, zero_stage=stage), models[model])
    weights, *others = ranks.call("publish", 7)
    assert others == [None] * (count - 1) and weights.version == 7
    got, want = dict(weights.tensors()), on_disk(models[model])
    assert parameters == sum(tensor.numel() for tensor in want.values())
    if model == "tied":
        assert "lm_head.weight" not in want
        want["lm_head.weight"] = want["model.embed_tokens.weight"]
        offsets = {entry.name: entry.offset for entry in weights.entries}
        assert offsets["lm_head.weight"] == offsets["model.embed_tokens.weight"]  # sent once
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name
    ranks.scatter("update", [batch(1, count)], ALGORITHM)
    moved = dict(ranks.call("publish", 8)[0].tensors())
    assert all(not torch.equal(moved[name], want[name]) for name in want)
    assert torch.equal(got["lm_head.weight"], want["lm_head.weight"])  # the first publication is a copy


@every_layout
def test_resumed_training_continues_bit_by_bit(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, count: int, stage: int, model: ModelConf
) -> None:
    """Weights, AdamW's moments, the number of updates (the schedule's place), from files and from what ranks kept: the
    next update ends in the same bits. A checkpoint that is written beside that update is the same, byte by byte."""
    ranks = groups_of_ranks[count]
    conf = replace(CONF, ranks=count, zero_stage=stage, schedule=Schedule.linear, warmup_steps=2)
    ranks.start(conf, models["tied"], models["tied-reference"], total=6, model=model)
    for seed in (1, 2, 3):
        ranks.scatter("update", [batch(seed, count)], ALGORITHM)
    saved, beside = ranks.digests(), tmp_path / "beside"
    written = ranks.call("save", str(tmp_path))
    kept = ranks.call("keep")
    assert ranks.digests() == saved
    assert ranks.call("save", str(beside), True) == [None] * count
    report = ranks.scatter("update", [batch(4, count)], ALGORITHM)[0]
    want = ranks.digests()
    assert ranks.call("saved", True) == written and (written[-1] or not stage)
    for path in beside.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()

    for method, given in (("load", [str(tmp_path)]), ("restore", kept)):
        ranks.start(conf, models["tied"], models["tied-reference"], total=6, model=model)
        assert ranks.call(method, *given) == [3] * count
        assert ranks.digests() == saved
        again = ranks.scatter("update", [batch(4, count)], ALGORITHM)[0]
        assert ranks.digests() == want
        assert (again.updates, again.lr, again.loss) == (report.updates, report.lr, report.loss)


@pytest.mark.parametrize("model", [FLOAT, BFLOAT], ids=["float32", "bfloat16"])
def test_training_goes_on_under_any_other_layout(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, model: ModelConf
) -> None:
    """Handed from layout to layout, each loads the same weights and moments bit by bit, and makes the same updates as
    one layout alone, to rounding."""

    def trained(layouts: list[tuple[int, int]], folder: Path) -> dict[str, np.ndarray]:
        saved: dict[str, np.ndarray] = {}
        for at, (count, stage) in enumerate(layouts):
            ranks = groups_of_ranks[count]
            ranks.start(replace(CONF, ranks=count, zero_stage=stage, lr=1e-3), models["tied"], total=20, model=model)
            if at:
                assert ranks.call("load", str(folder / str(at - 1))) == [at] * count
                loaded = joined(ranks.each(held))
                assert loaded.keys() == saved.keys()
                assert all(np.array_equal(loaded[key], saved[key]) for key in saved)
            ranks.scatter("update", [batch(at, count)], ALGORITHM)
            (folder / str(at)).mkdir(parents=True)
            ranks.call("save", str(folder / str(at)))
            saved = joined(ranks.each(held))
        return saved

    least = 0 if model is FLOAT else 1  # bfloat16 has its float32 weights from ZeRO
    handed = trained([(1, least), (2, 2), (1, 1), (2, 3), (2, least), (2, 1)], tmp_path / "handed")
    alone = trained([(1, least)] * 6, tmp_path / "alone")
    for kind in ("weight", "exp_avg", "exp_avg_sq"):  # of all parameters: of some the gradient is rounding alone
        mine, want = (
            np.concatenate([one[key] for key in alone if key.startswith(f"{kind}/")]) for one in (handed, alone)
        )
        assert np.linalg.norm(mine - want) < (1e-3 if model is FLOAT else 0.1) * np.linalg.norm(want), kind


def test_incomplete_checkpoints_are_rejected(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path
) -> None:
    """Absent, empty, without a rank's file, or of another model; a pickled file is never read."""
    ranks = groups_of_ranks[2]
    for stage in (0, 2, 3):
        ranks.start(replace(CONF, ranks=2, zero_stage=stage), models["tied"])
        with pytest.raises(FileNotFoundError, match="does not exist"):
            ranks.call("load", str(tmp_path / "absent"))
        folder = tmp_path / str(stage)
        folder.mkdir()
        with pytest.raises(BadInput, match=r"has no learner.json: a version before"):
            ranks.call("load", str(folder))
        ranks.call("save", str(folder))
        assert sorted(path.suffix for path in folder.iterdir()) == [".json", *[".safetensors"] * (2 if stage else 1)]
        for file in folder.glob("*.safetensors"):
            content = file.read_bytes()
            file.unlink()
            with pytest.raises(BadInput, match=r"lacks values of|values in the checkpoint|has no rank_00000"):
                ranks.call("load", str(folder))
            file.write_bytes(content)
        assert ranks.call("load", str(folder)) == [0, 0]
    ranks.start(replace(CONF, ranks=2), models["untied"])
    with pytest.raises(BadInput, match=r"k_proj.weight has 1024 values in the checkpoint .* and 512 in the model"):
        ranks.call("load", str(tmp_path / "0"))


@pytest.mark.parametrize(
    ("count", "stage", "model"),
    [(1, 0, "untied"), (2, 3, "tied"), seldom(1, 0, "tied"), seldom(2, 3, "untied")],
)
def test_export_is_an_ordinary_model_folder(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, count: int, stage: int, model: str
) -> None:
    """transformers loads it, with the trained weights and no trace of the learner's own attention; training goes on."""
    from transformers import AutoModelForCausalLM

    ranks = groups_of_ranks[count]
    ranks.start(replace(CONF, ranks=count, zero_stage=stage), models[model], models[f"{model}-reference"])
    ranks.scatter("update", [batch(1, count)], ALGORITHM)
    ranks.call("export", str(tmp_path))
    published = dict(ranks.call("publish", 1)[0].tensors())
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    state = loaded.state_dict()
    assert state.keys() == published.keys()
    assert all(torch.equal(state[name], published[name]) for name in state)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == (model == "tied")
    config = (tmp_path / "config.json").read_text()
    assert json.loads(config)["use_cache"] is True and "packed" not in config
    assert loaded.generate(torch.tensor([[2, 50, 3]]), max_new_tokens=3, do_sample=False).shape[1] > 3
    assert ranks.scatter("update", [batch(2, count)], ALGORITHM)[0].skipped == 0


@pytest.mark.parametrize("temperature", [0.6, seldom(1.0)])
@pytest.mark.parametrize(("count", "stage"), [(1, 0), (2, 3)])
def test_scored_log_probs_equal_transformers(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, temperature: float
) -> None:
    """At the requested temperature, whatever the worker's own; zero on prompts."""
    ranks = groups_of_ranks[count]
    ranks.start(replace(CONF, ranks=count, zero_stage=stage), models["tied"], temperature=0.9)
    groups = naive.some_groups(5)
    sequences, totals = optimizer_steps(groups, ALGORITHM)[0]
    whole = pack(sequences, totals, 60, count)
    model = naive.load(models["tied"])
    want = {}
    for group in groups:
        for trajectory in group.trajectories:
            with torch.no_grad():
                key = (*trajectory.prompt.token_ids.tolist(), *trajectory.token_ids.tolist())
                want[key] = naive.logprobs(model, trajectory, temperature)[0].numpy()
    for rank in range(count):
        rows = ranks.each(_logprobs, whole.ranks, temperature)[rank]
        for mb, row in zip(whole.ranks[rank], rows, strict=True):
            assert row.dtype == np.float32 and not row[~mb.response].any()
            end = 0
            for length in mb.lengths:
                ids, got = mb.token_ids[end : end + length].tolist(), row[end : end + length]
                end += length
                if mb.kl_weights.any():
                    response = mb.response[end - length : end]
                    np.testing.assert_allclose(got[response], want[tuple(ids)], atol=2e-6)


def _logprobs(state: dict[str, Any], shares: tuple[tuple[MicroBatch, ...], ...], temperature: float) -> Any:
    return state["worker"].logprobs(shares[state["rank"]], temperature)


@pytest.mark.heavy
def test_joining_the_process_group_compiles_nothing_and_takes_no_shared_memory(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No compiler is needed on a CPU, nothing of DeepSpeed's inference operator is left in /dev/shm, and its autotuner
    has not loaded MLflow."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    ranks = Ranks(2)
    ranks.start(replace(CONF, ranks=2), models["tied"])
    buffers = list(Path("/dev/shm").glob(f"*_{ranks.port}_*"))
    loaded = ranks.each(_loaded)
    ranks.close()
    assert not buffers and not list(tmp_path.iterdir())
    assert all({"deepspeed", "torch"} <= one and "mlflow" not in one for one in loaded)


def _loaded(_: dict[str, Any]) -> set[str]:
    return {name for name in sys.modules if "." not in name}


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        (Schedule.constant, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (Schedule.linear, [0.5, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1]),
        (
            Schedule.cosine,
            [0.5, 1.0, 1.0, 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 0.55, 0.1 + 0.9 * (2 - math.sqrt(2)) / 4, 0.1],
        ),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: Schedule, want: list[float]) -> None:
    """Two steps up, then from lr to min_lr_ratio * lr at the last of seven; level beyond."""
    conf = LearnerConf(lr=2.0, schedule=schedule, warmup_steps=2, min_lr_ratio=0.1)
    got = [learning_rate(conf, update, 7) for update in range(7)]
    assert got == pytest.approx([2 * rate for rate in want])
    assert learning_rate(conf, 50, 7) == pytest.approx(2 * want[-1])
    assert learning_rate(replace(conf, warmup_steps=0), 0, 1) == pytest.approx(2.0)


def test_unusable_model_folders_are_rejected(models: dict[str, str], tmp_path: Path) -> None:
    """Missing, empty, truncated, not a language model: BadInput that names the folder."""
    import shutil

    folders = {name: tmp_path / name for name in ("missing", "empty", "truncated", "headless", "other")}
    folders["empty"].mkdir()
    for name in ("truncated", "headless", "other"):
        shutil.copytree(models["tied"], folders[name])
    weights = folders["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    (folders["headless"] / "model.safetensors").unlink()
    (folders["other"] / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for folder in folders.values():
        with pytest.raises(BadInput, match=f"model.path={folder}"):
            load_policy(str(folder), "float32")
