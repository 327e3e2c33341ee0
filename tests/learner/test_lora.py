"""LoRA adapters (peft): only they are trained, by the right gradient, and all others see an ordinary model."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._learner.reference import relative_error
from conf.schema import (
    AlgorithmConf,
    Config,
    Dtype,
    LearnerConf,
    LoraConf,
    ModelConf,
    RandomModelConf,
    Schedule,
    TrackerConf,
    WarmupConf,
)
from learner.data.batch import MicroBatch
from learner.model import lora
from learner.model.policy import load_policy
from learner.model.prepare_model import prepared_model, random_model
from rollout.base.errors import BadInput
from tests.helpers import naive
from tests.helpers.learner_ranks import Ranks, train_batch
from tests.helpers.seldom import seldom

LORA = LoraConf(rank=4, alpha=6.0)
SCALE = 1.5
FLOAT = ModelConf(lora=LORA)
BFLOAT = ModelConf(lora=LORA, dtype=Dtype.bfloat16)
CONF = LearnerConf(lr=0.02, logprob_chunk=16)
ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
LAYOUTS = [
    *((count, stage, FLOAT) for count, stage in [(1, 0), (2, 1), (2, 3)]),
    *((count, stage, BFLOAT) for count, stage in [(2, 0), (2, 2), (2, 3)]),
]
REST = [(2, 1, FLOAT), (2, 0, BFLOAT), (2, 3, BFLOAT)]  # with `make test-all`
every_layout = pytest.mark.parametrize(
    ("count", "stage", "model"),
    [seldom(*one) if one in REST else one for one in LAYOUTS],
    ids=[f"{count}-{stage}-{model.dtype.value}" for count, stage, model in LAYOUTS],
)
two_layouts = pytest.mark.parametrize(("count", "stage"), [(1, 0), (2, 3)])


batch = partial(train_batch, algorithm=ALGORITHM)


def begun(ranks: Ranks, folder: str, stage: int = 0, model: ModelConf = FLOAT, updates: int = 2, **conf: Any) -> None:
    """Ranks with adapters that have learnt a little: B is not zero any more. Their reference is their own."""
    ranks.start(replace(CONF, ranks=ranks.count, zero_stage=stage, **conf), folder, folder, model=model)
    for seed in range(1, updates + 1):
        ranks.scatter("update", [batch(seed, ranks.count // ranks.sharing)], ALGORITHM)


def tensors(ranks: Ranks) -> dict[str, np.ndarray]:
    """All that rank 0 holds, frozen weights and adapters apart."""
    return ranks.each(_tensors)[0]


def _tensors(state: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in state["worker"].engine.parameters()}


def published(ranks: Ranks) -> dict[str, Tensor]:
    return dict(ranks.call("publish", 1)[0].tensors())


def on_disk(folder: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found = load_file(Path(folder) / "model.safetensors")
    return found if "lm_head.weight" in found else found | {"lm_head.weight": found["model.embed_tokens.weight"]}


@every_layout
def test_only_adapters_are_trained(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    """Every adapter moves, on all ranks alike; every other weight keeps each bit."""
    ranks = groups_of_ranks[count]
    begun(ranks, models["untied"], stage, model, updates=0)
    before = tensors(ranks)
    adapters = {name for name in before if ".lora_" in name}
    assert len(adapters) == 2 * 2 * 7  # A and B, two layers of seven linear ones
    assert all(before[name].any() != (".lora_B." in name) for name in adapters)
    for seed in (1, 2):
        reports = ranks.scatter("update", [batch(seed, count)], ALGORITHM)
        assert all(report.skipped == 0 and report.grad_norm > 0 for report in reports)
    after = tensors(ranks)
    assert {name for name in before if (before[name] != after[name]).any()} == adapters
    assert len(set(ranks.digests())) == 1


def reference_gradients(folder: str, adapters: dict[str, np.ndarray], seed: int) -> tuple[dict[str, Tensor], float]:
    """Those of A and B for one update, and its KL: transformers' model in float64 with W + alpha / rank * B A."""
    model = naive.load(folder).requires_grad_(False)
    leaves: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if f"{name}.lora_A.default.weight" in adapters:
            names = [f"{name}.lora_{letter}.default.weight" for letter in "AB"]
            a, b = (torch.tensor(adapters[n], dtype=torch.float64, requires_grad=True) for n in names)
            leaves |= dict(zip(names, (a, b), strict=True))
            module.forward = partial(_with_change, module, a, b)
    items, base = naive.weighted(naive.some_groups(seed), ALGORITHM), naive.load(folder)
    with torch.no_grad():
        ref = [naive.logprobs(base, item.trajectory, 0.6)[0] for item in items]
    terms = naive.step_loss(model, items, None, ref, ALGORITHM, 0.6)
    terms.loss.backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}, terms.kl


def _with_change(module: Any, a: Tensor, b: Tensor, states: Tensor) -> Tensor:
    return functional.linear(states, module.weight + SCALE * b @ a, module.bias)


@pytest.mark.parametrize(
    ("count", "stage", "model", "changes"),
    [
        *((1, 0, "untied", {}), (2, 3, "tied", {})),
        *(seldom(count, stage, "untied", {}) for count, stage in [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]),
        seldom(1, 0, "tied", {}),
        seldom(2, 0, "untied", {"gradient_checkpointing": True}),
        seldom(2, 3, "untied", {"gradient_checkpointing": True}),
        seldom(2, 0, "untied", {"sequence_parallel": 2}),
        (2, 3, "untied", {"sequence_parallel": 2, "gradient_checkpointing": True}),
        seldom(2, 2, "untied", {"offload_optimizer": True}),
        (2, 3, "untied", {"offload_optimizer": True, "offload_parameters": True}),
    ],
)
def test_the_gradient_equals_the_float64_reference(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: str, changes: Any
) -> None:
    """Relative error of 1e-5 for every A and B, after some updates, with the KL term against the adapters switched
    off; nothing else has a gradient."""
    ranks = groups_of_ranks[count]
    begun(ranks, models[model], stage, **changes)
    adapters = {name: value for name, value in tensors(ranks).items() if ".lora_" in name}
    want, kl = reference_gradients(models[model], adapters, 5)
    assert want.keys() == adapters.keys() and kl > 1e-4
    for got in ranks.gradients([batch(5, count // ranks.sharing)], ALGORITHM):
        assert got.keys() == want.keys()
        for name in want:
            assert relative_error(got[name], want[name]) < 1e-5, name


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose matrices are large enough (100,000 numbers) for ZeRO-3 to divide them over the ranks."""
    shape = RandomModelConf(hidden_size=384, layers=2, heads=4, kv_heads=4, ffn_size=288, init_std=0.05)
    return random_model(tmp_path_factory.mktemp("wide"), shape, ModelConf(), 3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_over_zero_3_weights_equals_the_reference(
    groups_of_ranks: dict[int, Ranks], wide: str, checkpointing: bool
) -> None:
    ranks = groups_of_ranks[2]
    begun(ranks, wide, 3, gradient_checkpointing=checkpointing)
    assert all(0 < share < 0.1 for share in ranks.each(_share_at_hand))
    adapters = {name: value for name, value in tensors(ranks).items() if ".lora_" in name}
    want, _ = reference_gradients(wide, adapters, 5)
    for got in ranks.gradients([batch(5, 2)], ALGORITHM):
        assert got.keys() == want.keys()
        assert max(relative_error(got[name], want[name]) for name in want) < 1e-5
    adapters = {name: value for name, value in tensors(ranks).items() if ".lora_" in name}  # `gradients` updates
    plain, sent = dict(naive.load(wide).named_parameters()), published(ranks)
    for name in [name for name in plain if name.endswith("_proj.weight")]:
        a, b = (torch.tensor(adapters[name.replace("weight", f"lora_{x}.default.weight")]).double() for x in "AB")
        assert relative_error(sent[name], plain[name].detach() + SCALE * b @ a) < 1e-6


def _share_at_hand(state: dict[str, Any]) -> float:
    policy = state["worker"].engine.policy
    return sum(p.numel() for p in policy.parameters()) / sum(p.ds_numel for p in policy.parameters())


@every_layout
def test_a_gradient_over_a_bfloat16_model_has_the_references_direction(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    """As tests/learner/test_gradient.py has it for whole models. The adapters themselves are float32 in any case."""
    ranks = groups_of_ranks[count]
    begun(ranks, models["untied"], stage, model)
    adapters = {name: value for name, value in tensors(ranks).items() if ".lora_" in name}
    assert all(torch.equal(x, x.bfloat16().float()) != x.any() for x in map(torch.tensor, adapters.values()))
    want, _ = reference_gradients(models["untied"], adapters, 5)
    got = ranks.gradients([batch(5, count)], ALGORITHM)[0]
    mine, flat = (torch.cat([torch.as_tensor(g[name]).double().flatten() for name in want]) for g in (got, want))
    assert relative_error(mine, flat) < (1e-5 if model is FLOAT else 0.1)


@every_layout
def test_nonfinite_gradients_change_nothing(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    ranks, good = groups_of_ranks[count], batch(1, count)
    *others, (first, *rest) = good.ranks
    bad = replace(good, ranks=(*others, (replace(first, advantages=first.advantages * np.nan), *rest)))
    begun(ranks, models["tied"], stage, model)
    before = ranks.digests()
    assert all(report.skipped == 1 for report in ranks.scatter("update", [bad], ALGORITHM))
    assert ranks.digests() == before
    assert all(report.skipped == 0 for report in ranks.scatter("update", [good], ALGORITHM))
    assert ranks.digests() != before


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_runs_layers_twice(models: dict[str, str], checkpointing: bool) -> None:
    """The setting is easily without effect: transformers heeds it in training mode only, and loads for evaluation."""
    from learner.model.attention import Layout

    policy, calls = load_policy(models["tied"], "float32", checkpointing=checkpointing), []
    lora.attach(policy.causal_lm, LORA)
    policy.body.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    ids, response = torch.arange(5), torch.arange(5) > 2
    policy(ids, ids, response, Layout([5]), 1.0, 8)[0].sum().backward()
    assert len(calls) == 1 + checkpointing


@every_layout
def test_published_weights_are_merged_and_training_is_unchanged(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    """Plain names; bit by bit the model's own before the first update; then W + B A * alpha / rank, rounded once."""
    ranks, path = groups_of_ranks[count], models["tied"]
    begun(ranks, path, stage, model, updates=0)
    dtype = getattr(torch, model.dtype.value)
    fresh, want = published(ranks), {name: tensor.to(dtype) for name, tensor in on_disk(path).items()}
    assert fresh.keys() == want.keys()
    assert all(torch.equal(fresh[name], want[name]) for name in want)
    begun(ranks, path, stage, model)
    before = tensors(ranks)
    weights, *others = ranks.call("publish", 1)
    got = dict(weights.tensors())
    assert others == [None] * (count - 1) and got.keys() == want.keys()
    for _ in range(3):
        published(ranks)
    after = tensors(ranks)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    for name, tensor in want.items():
        module = name.removesuffix(".weight")
        a, b = (before.get(f"{module}.lora_{letter}.default.weight") for letter in "AB")
        if a is None or b is None:
            assert torch.equal(got[name], tensor), name
        else:
            left, right = torch.tensor(SCALE * b).double(), torch.tensor(a).double()
            exact, size = tensor.double() + left @ right, tensor.double().abs() + left.abs() @ right.abs()
            allowed = torch.finfo(dtype).eps / 2 * exact.abs() + torch.finfo(torch.float32).eps * size
            assert got[name].dtype is dtype and not torch.equal(got[name], tensor)
            assert bool(((got[name].double() - exact).abs() <= allowed).all()), name


@pytest.mark.parametrize("model", ["tied", "untied"])
@two_layouts
def test_published_and_exported_weights_give_the_policys_log_probs(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, count: int, stage: int, model: str
) -> None:
    """transformers' model with the published weights, and the exported folder: the policy's log-probs to 1e-5."""
    from transformers import AutoModelForCausalLM

    ranks = groups_of_ranks[count]
    begun(ranks, models[model], stage)
    whole = batch(6, count)
    got = dict(zip(range(count), ranks.each(_logprobs, whole.ranks), strict=True))
    ranks.call("export", str(tmp_path))
    sent = published(ranks)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(sent[name], tensor) for name, tensor in exported.state_dict().items())
    assert sent.keys() == exported.state_dict().keys()
    assert (exported.lm_head.weight is exported.model.embed_tokens.weight) == (model == "tied")
    base = AutoModelForCausalLM.from_pretrained(models[model])
    moved = 0.0
    for rank, share in enumerate(whole.ranks):
        for mb, row in zip(share, got[rank], strict=True):
            end = 0
            for length in mb.lengths:
                here = slice(end, end + length)
                end += length
                chosen = mb.response[here]
                merged, plain = (_of(one, mb.token_ids[here])[chosen] for one in (exported, base))
                np.testing.assert_allclose(row[here][chosen], merged, atol=1e-5)
                moved = max(moved, float(np.abs(merged - plain).max(initial=0.0)))
    assert moved > 0.05


def _logprobs(state: dict[str, Any], shares: tuple[tuple[MicroBatch, ...], ...]) -> Any:
    return state["worker"].logprobs(shares[state["rank"]], 0.6)


def _of(model: Any, ids: np.ndarray) -> np.ndarray:
    """[n] log-probs of tokens at temperature 0.6, zero for the first."""
    with torch.no_grad():
        table = (model(torch.tensor(ids)[None]).logits[0] / 0.6).log_softmax(-1)
    chosen = table[:-1].gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    return np.concatenate([[0.0], chosen.numpy()])


@two_layouts
def test_export_is_an_ordinary_model_folder_with_the_adapter_beside(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, count: int, stage: int
) -> None:
    """transformers loads the folder with no trace of peft; peft loads `adapter/` on top of the model that was trained;
    both give the same logits. Training goes on."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ranks = groups_of_ranks[count]
    begun(ranks, models["untied"], stage)
    ranks.call("export", str(tmp_path))
    assert "lora" not in (tmp_path / "config.json").read_text()
    assert not any("lora" in name or "base_layer" in name for name in on_disk(str(tmp_path)))
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen2ForCausalLM" and not hasattr(loaded, "peft_config")
    ids = torch.tensor([[2, 50, 3, 77, 100, 9]])
    with torch.no_grad():
        merged = loaded(ids).logits
        assert loaded.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 6

        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert (written["r"], written["lora_alpha"], written["lora_dropout"]) == (4, 6, 0)
        assert written["base_model_name_or_path"] == models["untied"]
        base = AutoModelForCausalLM.from_pretrained(written["base_model_name_or_path"])
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))(ids).logits
    np.testing.assert_allclose(adapted, merged, atol=1e-5)
    assert float((plain - merged).abs().max()) > 0.1
    assert all(report.skipped == 0 for report in ranks.scatter("update", [batch(7, count)], ALGORITHM))


@every_layout
def test_the_policy_without_adapters_is_the_reference(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    """Bit by bit the log-probs of a second copy of the model, after updates, too; then they are on again."""
    ranks = groups_of_ranks[count]
    begun(ranks, models["tied"], stage, model, updates=0)
    first = ranks.scatter("update", [batch(1, count)], ALGORITHM)[0]
    assert first.kl == 0
    for seed in (2, 3):
        report = ranks.scatter("update", [batch(seed, count)], ALGORITHM)[0]
    assert report.kl > 1e-4
    shares = batch(4, count).ranks
    before = ranks.each(_logprobs, shares)
    for rank, pairs in enumerate(ranks.each(_references, shares, models["tied"])):
        for own, copied in pairs:
            # gathered weights lie elsewhere in memory, on which a product's last bit may depend
            np.testing.assert_allclose(own, copied, rtol=0, atol=2e-6 if stage == 3 else 0)
        assert not all(np.array_equal(own, now) for (own, _), now in zip(pairs, before[rank], strict=True))
    after = ranks.each(_logprobs, shares)
    assert all(np.array_equal(x, y) for xs, ys in zip(before, after, strict=True) for x, y in zip(xs, ys, strict=True))


def _references(state: dict[str, Any], shares: Any, folder: str) -> Any:
    """(log-probs by the worker's reference, by a copy of the model from disk) of each micro-batch."""
    worker = state["worker"]
    assert isinstance(worker.reference, lora.Unadapted)
    copied = load_policy(folder, worker.model.dtype.value).requires_grad_(False)
    with torch.no_grad():
        return [
            tuple(worker.updater.score(policy, mb)[0].numpy() for policy in (worker.reference, copied))
            for mb in shares[state["rank"]]
        ]


@every_layout
def test_resumed_training_continues_bit_by_bit(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path, count: int, stage: int, model: ModelConf
) -> None:
    """Adapters, their moments and the schedule's place: the next update ends in the same bits."""
    ranks = groups_of_ranks[count]
    more = {"schedule": Schedule.linear, "warmup_steps": 2}
    begun(ranks, models["tied"], stage, model, updates=3, **more)
    saved = ranks.digests()
    ranks.call("save", str(tmp_path))
    report = ranks.scatter("update", [batch(4, count)], ALGORITHM)[0]
    want = ranks.digests()
    begun(ranks, models["tied"], stage, model, updates=0, **more)
    assert ranks.digests() != saved
    assert ranks.call("load", str(tmp_path)) == [3] * count
    assert ranks.digests() == saved
    again = ranks.scatter("update", [batch(4, count)], ALGORITHM)[0]
    assert ranks.digests() == want
    assert (again.updates, again.lr, again.loss, again.kl) == (report.updates, report.lr, report.loss, report.kl)


def test_a_checkpoint_of_other_adapters_is_rejected(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path
) -> None:
    """One line, where DeepSpeed would list every tensor, or (for alpha) go on with another model."""
    ranks = groups_of_ranks[1]
    none = ModelConf()
    others = [none, *(ModelConf(lora=replace(LORA, **change)) for change in ({"rank": 8}, {"alpha": 7.0}))]
    begun(ranks, models["tied"])
    ranks.call("save", str(tmp_path / "adapters"))
    for other in others:
        begun(ranks, models["tied"], model=other, updates=0)
        saved = r"model\.lora\.rank=4, model\.lora\.alpha=6\.0, model\.lora\.targets=all-linear"
        with pytest.raises(BadInput, match=f"these adapters: {saved}; the configuration says: ") as said:
            ranks.call("load", str(tmp_path / "adapters"))
        assert "\n" not in str(said.value)
    begun(ranks, models["tied"], model=none)
    ranks.call("save", str(tmp_path / "none"))
    assert ranks.call("load", str(tmp_path / "none")) == [2]
    begun(ranks, models["tied"], updates=0)
    with pytest.raises(BadInput, match=r"these adapters: none; the configuration says: model\.lora\.rank=4"):
        ranks.call("load", str(tmp_path / "none"))


def test_adapters_start_from_their_seed_on_any_number_of_ranks(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str]
) -> None:
    """A's start is that of the seed, for any number of ranks; off means an ordinary model."""
    firsts = []
    for count, seed in ((1, 0), (2, 0), (1, 1)):
        begun(groups_of_ranks[count], models["tied"], model=ModelConf(lora=replace(LORA, seed=seed)), updates=0)
        firsts.append(tensors(groups_of_ranks[count])["model.layers.0.mlp.up_proj.lora_A.default.weight"])
    assert np.array_equal(firsts[0], firsts[1]) and not np.array_equal(firsts[0], firsts[2])
    for off in (None, 0):
        begun(groups_of_ranks[1], models["tied"], model=ModelConf(lora=LoraConf(rank=off)), updates=0)
        assert not any("lora" in name or "base_layer" in name for name in tensors(groups_of_ranks[1]))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["mlp.up_proj"], {"up_proj"}),
    ],
)
def test_targets_choose_the_adapted_layers(models: dict[str, str], targets: Any, adapted: set[str]) -> None:
    policy = load_policy(models["untied"], "bfloat16")
    lora.attach(policy.causal_lm, replace(LORA, targets=targets))
    learning = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learning} == adapted
    for parameter in policy.parameters():
        assert parameter.dtype is (torch.float32 if parameter.requires_grad else torch.bfloat16)
    assert len(learning) == 2 * 2 * len(adapted)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "norm", "proj", "x_proj"])
def test_targets_that_are_not_linear_layers_of_the_body_are_rejected(models: dict[str, str], target: str) -> None:
    policy = load_policy(models["untied"], "float32")
    with pytest.raises(BadInput, match=rf"model\.lora\.targets: .* '{target}' .*q_proj") as refused:
        lora.attach(policy.causal_lm, replace(LORA, targets=["q_proj", target]))
    assert "\n" not in str(refused.value)


def test_a_model_without_trained_control_tokens_is_rejected(models: dict[str, str], tmp_path: Path) -> None:
    """Adapters leave the embeddings alone, so that new tokens would keep the mean of the old rows for ever."""
    conf = ModelConf(path=models["tied"], short_token="<brief>")
    assert prepared_model(conf, tmp_path / "whole") != models["tied"]
    with pytest.raises(BadInput, match=r"model\.lora\.rank=4 .*<brief>.*warmup"):
        prepared_model(replace(conf, lora=LORA), tmp_path / "adapted")
    assert prepared_model(ModelConf(path=models["tied"], lora=LORA), tmp_path / "ready") == models["tied"]


def test_a_warm_up_trains_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New tokens' rows and random models need it; its cache does not ask whether adapters follow."""
    from orchestrator.cluster.cluster import Cluster
    from orchestrator.commands import warmup

    given: list[tuple[Config, Path]] = []
    monkeypatch.setattr(warmup, "_fine_tune", lambda conf, *rest: given.append((conf, rest[-1])))
    for model in (ModelConf(random=RandomModelConf()), ModelConf(random=RandomModelConf(), lora=LORA)):
        conf = Config(model=model, warmup=WarmupConf(steps=1, cache=str(tmp_path)), tracker=TrackerConf(console=False))
        warmup.warm_up(conf, Cluster(conf.cluster))
    assert given[0] == given[1] and given[0][1].parent == tmp_path  # the same settings, for the same folder
