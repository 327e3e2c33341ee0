"""One law: the gradient of an update is that of the written-out float64 loss, for any ranks, packing, ZeRO stage, form.

The reference (tests/helpers/naive.py) is transformers' model in float64 without packing, one sequence at a time, in
this process; the gradients under test come from real DeepSpeed ranks over gloo. Bound: relative L2 error of 1e-5 for
every tensor.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks._learner.gradient import MEMORY_SETTINGS, SPEED_SETTINGS
from benchmarks._learner.reference import relative_error
from conf.schema import AlgorithmConf, Dtype, Form, Importance, KLEstimator, LearnerConf, Loss, ModelConf, Old
from learner.data.pack import pack
from learner.objective import optimizer_steps
from reward.group import Group
from tests.helpers import naive
from tests.helpers.learner_ranks import Ranks, call_worker
from tests.helpers.seldom import seldom

BOUND = 1e-5
ONE_STEP = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5, length_constant=30)
ALGORITHMS = [
    replace(ONE_STEP, loss=loss, form=form) for loss in (Loss.degrpo, Loss.grpo) for form in (Form.code, Form.paper)
]
ALGORITHMS.append(replace(ONE_STEP, loss=Loss.dr_grpo, importance=Importance.truncate, kl_estimator=KLEstimator.k2))
STILL = LearnerConf(lr=0.0, weight_decay=0.0, logprob_chunk=7)  # updates leave the weights as they are
GROUPS = naive.some_groups(0)


@pytest.fixture(scope="module")
def reference(models: dict[str, str]) -> Any:
    """(gradients, terms) of one update over GROUPS, by model and index into ALGORITHMS."""

    @cache
    def of(model: str, algorithm: int) -> Any:
        return naive.one_update(models[model], models[f"{model}-reference"], GROUPS, ALGORITHMS[algorithm])

    return of


def batches(groups: list[Group], algorithm: AlgorithmConf, max_tokens: int, ranks: int) -> list[Any]:
    return [pack(sequences, totals, max_tokens, ranks) for sequences, totals in optimizer_steps(groups, algorithm)]


def assert_same(got: dict[str, Any], want: dict[str, torch.Tensor], bound: float = BOUND, floor: float = 0.0) -> None:
    """Relative error of each tensor; floor: share of the whole gradient's norm that a smaller tensor counts as."""
    assert got.keys() == want.keys()
    least = floor * float(torch.cat([tensor.flatten() for tensor in want.values()]).norm())
    errors = {name: relative_error(got[name], want[name], least) for name in want}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= bound, f"{worst}: {errors[worst]:.2e}"


@pytest.mark.parametrize(
    ("count", "stage", "model"),
    [
        *[(1, 0, "untied"), (2, 2, "tied"), (2, 3, "untied")],
        *(seldom(*layout, "untied") for layout in [(1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2)]),
        *[seldom(1, 0, "tied"), seldom(2, 3, "tied")],
    ],
)
def test_the_gradient_equals_the_float64_reference(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], reference: Any, count: int, stage: int, model: str
) -> None:
    """Every algorithm and form, at three micro-batch budgets: one sequence a row, a few, all in one row."""
    ranks = groups_of_ranks[count]
    conf = replace(STILL, ranks=count, zero_stage=stage)
    ranks.start(conf, models[model], models[f"{model}-reference"])
    rows = set()
    for index, algorithm in enumerate(ALGORITHMS):
        for max_tokens in (32, 80, 4096):
            steps = batches(GROUPS, algorithm, max_tokens, count)
            rows.add(len(steps[0].ranks[0]))
            for got in ranks.gradients(steps, algorithm):
                assert_same(got, reference(model, index)[0])
    assert len(rows) == 3  # the budgets do differ


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of models whose logits are more than a product, one with caps and a window in its attention, and of some
    with layers that have a state along the sequence."""
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.15, "bos_token_id": None,
        "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    capped: dict[str, Any] = {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 7,
        "attn_logit_softcapping": 1.0,
    }
    delta: dict[str, Any] = {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    kinds = {
        "capped": transformers.Gemma2Config(**shape, **capped, final_logit_softcapping=3.0),
        "biased": transformers.PhiConfig(**shape),
        "delta net": transformers.Qwen3_5TextConfig(**shape, **delta),
        "convolution": transformers.Lfm2Config(**shape, layer_types=["conv", "full_attention"]),
    }
    folders = {}
    for name, config in kinds.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            model = transformers.AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    parameter.data += 0.3 * torch.randn_like(parameter)
        folders[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(
    ("model", "count", "stage"),
    [
        ("capped", 1, 0),
        seldom("capped", 2, 3),
        ("biased", 2, 3),
        seldom("delta net", 1, 0),
        ("delta net", 2, 3),
        ("convolution", 2, 3),
    ],
)
def test_other_heads_and_layers_have_the_same_gradient(
    groups_of_ranks: dict[int, Ranks], others: dict[str, str], model: str, count: int, stage: int
) -> None:
    """transformers computes delta nets in float32 within a float64 model, too: the reference itself is not better."""
    algorithm, bound = replace(ALGORITHMS[0], kl=0.0), 1e-4 if model == "delta net" else BOUND
    want, _ = naive.one_update(others[model], None, GROUPS, algorithm)
    ranks = groups_of_ranks[count]
    conf = replace(STILL, ranks=count, zero_stage=stage, gradient_checkpointing=stage == 3)
    ranks.start(conf, others[model])
    for max_tokens in (32, 4096):
        assert_same(ranks.gradients(batches(GROUPS, algorithm, max_tokens, count), algorithm)[0], want, bound)


@pytest.mark.parametrize(
    "changes", [*map(seldom, MEMORY_SETTINGS[:3]), *MEMORY_SETTINGS[3:5], seldom(MEMORY_SETTINGS[5])], ids=str
)
def test_memory_settings_do_not_change_the_gradient(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], reference: Any, changes: dict[str, Any]
) -> None:
    ranks = groups_of_ranks[2]
    ranks.start(replace(STILL, ranks=2, **changes), models["untied"], models["untied-reference"])
    got = ranks.gradients(batches(GROUPS, ALGORITHMS[0], 80, 2), ALGORITHMS[0])[0]
    assert_same(got, reference("untied", 0)[0])


@pytest.mark.parametrize("changes", [SPEED_SETTINGS[0], *map(seldom, SPEED_SETTINGS[1:3]), SPEED_SETTINGS[3]], ids=str)
def test_speed_settings_change_neither_gradient_nor_step(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], replayed: Any, changes: dict[str, Any]
) -> None:
    """Two optimizer steps over two ranks, the second one's gradient and the weights after it in float64."""
    gradients, weights, _ = replayed
    ranks = groups_of_ranks[2]
    ranks.start(replace(MOVING, ranks=2, **changes), models["untied"], models["untied-reference"])
    assert ranks.each(_settings) == [(changes.get("overlap_comm", False), changes.get("fused_adamw", False))] * 2
    got = ranks.gradients(batches(LATER, TWO_STEPS, 80, 2), TWO_STEPS)[0]
    assert_same(got, gradients)
    after = dict(ranks.call("publish", 1)[0].tensors())
    assert_same({name: after[name] for name in weights}, weights)


def _settings(state: dict[str, Any]) -> tuple[bool, bool]:
    """What DeepSpeed and torch were told."""
    engine = state["worker"].engine
    return engine.deepspeed.zero_overlap_comm(), bool(engine.optimizer.param_groups[0]["fused"])


@pytest.mark.bench
def test_compiled_layers_give_the_same_gradient(
    models: dict[str, str], reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpointing, as on GPUs; and rows of other lengths compile nothing anew."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)  # a sampler's setting, for its own process
    ranks, frames = Ranks(1), []
    try:
        conf = replace(STILL, compile_layers=True, gradient_checkpointing=True)
        ranks.start(conf, models["untied"], models["untied-reference"])
        for max_tokens in (80, 32, 4096):
            got = ranks.gradients(batches(GROUPS, ALGORITHMS[0], max_tokens, 1), ALGORITHMS[0])[0]
            assert_same(got, reference("untied", 0)[0])
            frames += ranks.each(_compiled_frames)
        assert frames[0] == frames[1] == frames[2] and frames[0]["ok"] == frames[0]["total"] > 0
    finally:
        ranks.close()


def _compiled_frames(_: dict[str, Any]) -> dict[str, int]:
    from torch._dynamo.utils import counters

    return dict(counters["frames"])


@pytest.mark.parametrize("stage", [0, seldom(1), seldom(2), 3])
def test_a_bfloat16_gradient_has_the_references_direction(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], reference: Any, stage: int
) -> None:
    """Half precision is no reference for digits; a wrong factor or a lost micro-batch would still show.

    Nor is the norm that all ranks report that of one rank's part.
    """
    ranks = groups_of_ranks[2]
    conf = replace(STILL, ranks=2, zero_stage=stage)
    model = ModelConf(dtype=Dtype.bfloat16)
    ranks.start(conf, models["untied"], models["untied-reference"], model=model)
    got = ranks.gradients(batches(GROUPS, ALGORITHMS[0], 80, 2), ALGORITHMS[0])[0]
    want = reference("untied", 0)[0]
    mine, flat = (torch.cat([torch.as_tensor(g[name]).double().flatten() for name in want]) for g in (got, want))
    assert relative_error(mine, flat) < 0.1
    reports = ranks.scatter("update", batches(GROUPS, ALGORITHMS[0], 80, 2), ALGORITHMS[0])
    assert [r.grad_norm for r in reports] == pytest.approx([float(flat.norm())] * 2, rel=0.1)


@pytest.mark.parametrize(("count", "stage"), [(2, 2), seldom(1, 1), seldom(1, 2), seldom(2, 1), seldom(2, 3)])
def test_bfloat16_gradients_are_added_in_float32(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int
) -> None:
    """Eighty micro-batches a rank in one update against the sum of what each gives alone."""
    rng = np.random.default_rng(7)
    groups = [naive.make_group(rng, 5, rng.integers(8, 12, 8).tolist(), [1.0, -1.0] * 4) for _ in range(10 * count)]
    ranks = groups_of_ranks[count]
    conf, model = replace(STILL, ranks=count, zero_stage=stage), ModelConf(dtype=Dtype.bfloat16)
    ranks.start(conf, models["untied"], models["untied-reference"], model=model)
    ((sequences, totals),) = optimizer_steps(groups, ONE_STEP)
    whole = pack(sequences, totals, 17, count)  # one sequence a row
    assert [len(share) for share in whole.ranks] == [80] * count
    want: dict[str, torch.Tensor] = {}
    for index in range(80):
        one = replace(whole, ranks=tuple((share[index],) for share in whole.ranks))
        for name, gradient in ranks.gradients([one], ONE_STEP)[0].items():
            want[name] = want.get(name, torch.zeros(())) + torch.as_tensor(gradient).double()
    got = ranks.gradients([whole], ONE_STEP)[0]
    assert_same(got, want, bound=3e-3)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("untied", {}),
        ("tied", {"zero_stage": 3}),
        *[seldom("untied", {"zero_stage": 3}), seldom("tied", {})],
        *(seldom(m, one) for m in ("tied", "untied") for one in ({"gradient_checkpointing": True}, {"zero_stage": 2})),
    ],
    ids=str,
)
def test_sequence_parallel_over_two_ranks_equals_the_reference(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], reference: Any, changes: dict[str, Any], model: str
) -> None:
    """Ulysses: each rank holds half of a packed row's tokens, through sequences and their prompts; nothing leaks.

    Every response token's log-prob comes from exactly one rank.
    """
    ranks = groups_of_ranks[2]
    ranks.start(replace(STILL, ranks=2, sequence_parallel=2, **changes), models[model], models[f"{model}-reference"])
    for max_tokens in (32, 81, 4096):
        steps = batches(GROUPS, ALGORITHMS[0], max_tokens, 1)
        for got in ranks.gradients(steps, ALGORITHMS[0]):
            assert_same(got, reference(model, 0)[0])
        parts = ranks.ask([(call_worker, ("logprobs", steps[0].ranks[0], 1.0))] * 2)
        for mb, one, two in zip(steps[0].ranks[0], *parts, strict=True):
            assert not ((one != 0) & (two != 0)).any() and (((one != 0) | (two != 0)) == mb.response).all()


@pytest.mark.bench
def test_sequence_parallel_over_four_ranks_equals_the_reference(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], reference: Any
) -> None:
    ranks = groups_of_ranks[4]
    for together, stage in ((2, 2), (4, 1)):
        conf = replace(STILL, ranks=4, sequence_parallel=together, zero_stage=stage)
        ranks.start(conf, models["untied"], models["untied-reference"])
        steps = batches(GROUPS, ALGORITHMS[0], 80, 4 // together)
        assert_same(ranks.gradients(steps, ALGORITHMS[0])[0], reference("untied", 0)[0])


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    count=st.sampled_from([1, 2]),
    together=st.sampled_from([1, 2]),
    stage=st.integers(0, 3),
    offload=st.booleans(),
    checkpointing=st.booleans(),
    chunk=st.integers(1, 60),
    spare=st.integers(0, 90),
    index=st.integers(0, len(ALGORITHMS) - 1),
    model=st.sampled_from(["tied", "untied"]),
)
def test_any_layout_of_ranks_and_memory_equals_the_reference(
    groups_of_ranks: dict[int, Ranks],
    models: dict[str, str],
    reference: Any,
    count: int,
    together: int,
    stage: int,
    offload: bool,
    checkpointing: bool,
    chunk: int,
    spare: int,
    index: int,
    model: str,
) -> None:
    """Ranks, sequence parallelism, ZeRO stage, offload, checkpointing, chunk and budget drawn together."""
    together = min(together, count)
    conf = replace(
        STILL,
        ranks=count,
        sequence_parallel=together,
        zero_stage=stage,
        offload_optimizer=offload and stage > 0,
        offload_parameters=offload and stage == 3,
        gradient_checkpointing=checkpointing,
        logprob_chunk=chunk,
    )
    ranks = groups_of_ranks[count]
    ranks.start(conf, models[model], models[f"{model}-reference"])
    steps = batches(GROUPS, ALGORITHMS[index], 32 + spare, count // together)
    assert_same(ranks.gradients(steps, ALGORITHMS[index])[0], reference(model, index)[0])


def test_a_rank_without_tokens_leaves_the_gradient_whole(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str]
) -> None:
    """Two sequences, then (the other masked as cut off) one: rank 1 runs an idle row and the gradient stays whole."""
    rng = np.random.default_rng(3)
    group = naive.make_group(rng, 5, [9], [1.0])
    pair = naive.make_group(rng, 5, [9, 4], [1.0, -1.0])
    assert not group.informative
    ranks = groups_of_ranks[2]
    for stage in (0, 2, 3):
        ranks.start(replace(STILL, ranks=2, zero_stage=stage), models["tied"], models["tied-reference"])
        sequences, totals = optimizer_steps([group, pair], ONE_STEP)[0]
        whole = [pack(sequences, totals, 64, 1), *(pack([s], totals, 64, 2) for s in sequences)]
        idle = [mb for batch in whole[1:] for mb in batch.ranks[1]]
        assert len(idle) == 2 and not any(mb.weights.any() or mb.kl_weights.any() for mb in idle)
        parts = [ranks.gradients([batch], ONE_STEP)[0] for batch in whole[1:]]
        want = naive.one_update(models["tied"], models["tied-reference"], [group, pair], ONE_STEP)[0]
        assert_same({name: parts[0][name] + parts[1][name] for name in parts[0]}, want)


@pytest.fixture(scope="module")
def still(groups_of_ranks: dict[int, Ranks], models: dict[str, str]) -> Ranks:
    ranks = groups_of_ranks[1]
    ranks.start(STILL, models["untied"], models["untied-reference"])
    return ranks


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 20), min_size=2, max_size=3)), min_size=1, max_size=4
    ),
    unjudged=st.integers(0, 2),
    spare=st.integers(0, 60),
    loss=st.sampled_from(Loss),
    form=st.sampled_from(Form),
    seed=st.integers(0, 1000),
)
def test_any_batch_equals_the_reference(
    still: Ranks,
    models: dict[str, str],
    shapes: list[tuple[int, list[int]]],
    unjudged: int,
    spare: int,
    loss: Loss,
    form: Form,
    seed: int,
) -> None:
    """Any prompts, response lengths, budget and algorithm, one rank.

    Where only first positions are learnt the true gradient of queries and keys is zero, hence the floor.
    """
    rng = np.random.default_rng(seed)
    groups = [
        naive.make_group(rng, prompt, lengths, [1.0, -1.0, 0.5][: len(lengths)], unjudged) for prompt, lengths in shapes
    ]
    algorithm = replace(ONE_STEP, loss=loss, form=form)
    longest = max(prompt + max(lengths) for prompt, lengths in shapes)
    got = still.gradients(batches(groups, algorithm, longest + spare, 1), algorithm)[0]
    want = naive.one_update(models["untied"], models["untied-reference"], groups, algorithm)[0]
    assert_same(got, want, floor=0.01)


# steps large enough for the clip to act, an eps that keeps AdamW smooth where gradients are near zero
MOVING = LearnerConf(lr=0.02, weight_decay=0.1, betas=[0.9, 0.95], eps=1e-4, max_grad_norm=0.05, logprob_chunk=16)
TWO_STEPS = replace(ONE_STEP, optimizer_steps=2)
LATER = naive.some_groups(7, prompts=6)


@pytest.fixture(scope="module")
def replayed(models: dict[str, str]) -> Any:
    parts = [LATER[:3], LATER[3:]]
    return naive.several_updates(models["untied"], models["untied-reference"], parts, TWO_STEPS, MOVING)


@pytest.mark.parametrize(("count", "stage"), [(1, 0), seldom(1, 2), seldom(2, 0), seldom(2, 1), (2, 2), (2, 3)])
def test_two_optimizer_steps_equal_a_float64_replay(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], replayed: Any, count: int, stage: int
) -> None:
    """The second step is off-policy: ratios against the weights before the first, clipped; then weights after AdamW."""
    gradients, weights, terms = replayed
    assert terms[0].clipped == 0 and terms[1].clipped > 0.02
    ranks = groups_of_ranks[count]
    ranks.start(replace(MOVING, ranks=count, zero_stage=stage), models["untied"], models["untied-reference"])
    before = {name: tensor.clone() for name, tensor in ranks.call("publish", 0)[0].tensors()}
    got = ranks.gradients(batches(LATER, TWO_STEPS, 80, count), TWO_STEPS)[0]
    assert_same(got, gradients)
    after = dict(ranks.call("publish", 1)[0].tensors())
    assert_same({name: after[name] for name in weights}, weights)
    moved = {name: after[name].double() - before[name].double() for name in weights}
    assert_same(moved, {name: weights[name] - before[name].double() for name in weights}, 1e-4)
    assert len(set(ranks.digests())) == 1  # all ranks hold the same weights


@pytest.mark.parametrize(("count", "stage"), [(1, 0), seldom(2, 0), seldom(1, 2), seldom(2, 2), (2, 3)])
def test_the_report_equals_the_float64_replay(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], replayed: Any, count: int, stage: int
) -> None:
    """Loss, its parts, entropy, KL, clip fraction and gradient norm of an update against the replay's."""
    terms = replayed[2]
    ranks = groups_of_ranks[count]
    ranks.start(replace(MOVING, ranks=count, zero_stage=stage), models["untied"], models["untied-reference"])
    reports = ranks.scatter("update", batches(LATER, TWO_STEPS, 80, count), TWO_STEPS)
    kept = [[item.trajectory for item in naive.weighted(part, TWO_STEPS)] for part in (LATER[:3], LATER[3:])]
    tokens = [sum(len(t.token_ids) for t in part) for part in kept]

    def mean(name: str) -> float:
        return sum(n * getattr(t, name) for n, t in zip(tokens, terms, strict=True)) / sum(tokens)

    for report in reports:
        assert report.loss == pytest.approx(sum(float(t.loss.detach()) for t in terms), rel=1e-4)
        assert report.loss_control == pytest.approx(sum(t.control for t in terms), rel=1e-4)
        assert report.loss == pytest.approx(report.loss_control + report.loss_response + report.loss_kl)
        assert report.entropy == pytest.approx(mean("entropy"), rel=1e-4)
        assert report.kl == pytest.approx(mean("kl"), rel=1e-4)
        assert report.clip_fraction == pytest.approx(mean("clipped"), abs=1e-9)
        assert report.grad_norm == pytest.approx(np.mean([t.grad_norm for t in terms]), rel=1e-4)
        assert report.tokens == sum(len(t.prompt.token_ids) + len(t.token_ids) for part in kept for t in part)
        assert (report.updates, report.skipped) == (2, 0)


SWITCHED = {
    "sampler": replace(TWO_STEPS, old=Old.sampler, clip=0.3, clip_high=0.6, dual_clip=1.8),
    "truncate": replace(TWO_STEPS, importance=Importance.truncate, clip_high=0.25, dual_clip=1.3),
    "mask": replace(TWO_STEPS, importance=Importance.mask, importance_cap=1.5, kl_estimator=KLEstimator.k2),
    "k1": replace(TWO_STEPS, loss=Loss.dr_grpo, kl_estimator=KLEstimator.k1, form=Form.paper),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_every_switch_equals_a_float64_replay(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], name: str
) -> None:
    """Both optimizer steps' gradients, and everything that the report counts, over one and over two ranks."""
    algorithm, parts = SWITCHED[name], [LATER[:3], LATER[3:]]
    folders = models["untied"], models["untied-reference"]
    gradients, _, terms = naive.several_updates(*folders, parts, algorithm, MOVING)
    tokens = [token for t in terms for token in t.tokens]
    kinds = [token.clipped for token in tokens]
    assert {"high", "low"} <= set(kinds) and ("dual" in kinds) == (algorithm.dual_clip is not None)
    compared = [token.importance for token in (terms[0].tokens if algorithm.old is Old.sampler else tokens)]

    def share(happened: list[bool]) -> Any:
        assert any(happened)
        return pytest.approx(sum(happened) / len(happened), abs=1e-9)

    for count, stage in ((1, 0), (2, 2)):
        ranks = groups_of_ranks[count]
        ranks.start(replace(MOVING, ranks=count, zero_stage=stage), *folders)
        assert_same(ranks.gradients(batches(LATER, algorithm, 80, count), algorithm)[0], gradients)
        ranks.start(replace(MOVING, ranks=count, zero_stage=stage), *folders)
        for report in ranks.scatter("update", batches(LATER, algorithm, 80, count), algorithm):
            assert report.loss == pytest.approx(sum(float(t.loss.detach()) for t in terms), rel=1e-4)
            assert report.kl == pytest.approx(np.average([t.kl for t in terms], weights=[len(t.tokens) for t in terms]))
            assert report.clip_high == share([kind == "high" for kind in kinds])
            assert report.clip_low == share([kind == "low" for kind in kinds])
            assert report.clip_dual == (share([kind == "dual" for kind in kinds]) if algorithm.dual_clip else 0)
            assert report.clip_fraction == share([bool(kind) for kind in kinds])
            assert report.ratio_outside == share([not 0.9 <= token.ratio <= 1.1 for token in tokens])
            assert report.importance_mean == pytest.approx(np.mean(compared), rel=1e-4)
            assert report.importance_max == pytest.approx(max(compared), rel=1e-4)
            assert report.importance_capped == share([m > algorithm.importance_cap for m in compared])


def test_without_a_kl_coefficient_the_reference_is_not_used(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str]
) -> None:
    """kl=0: one that is there does not score, and the report has no KL."""
    algorithm = replace(ONE_STEP, kl=0.0)
    ranks = groups_of_ranks[1]
    ranks.start(STILL, models["untied"], models["untied-reference"])
    ranks.each(_unusable_reference)
    (report,) = ranks.scatter("update", batches(GROUPS, algorithm, 80, 1), algorithm)
    assert report.loss_kl == 0 and np.isnan(report.kl) and report.loss != 0
    with pytest.raises(TypeError):
        ranks.scatter("update", batches(GROUPS, ONE_STEP, 80, 1), ONE_STEP)
    assert ranks.start(STILL, models["untied"]) and ranks.each(_reference) == [None]


def _unusable_reference(state: dict[str, Any]) -> None:
    state["worker"].reference = "calling this fails"


def _reference(state: dict[str, Any]) -> Any:
    return state["worker"].reference


def test_mismatch_compares_the_sampler_with_the_weights_before_the_batch(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str]
) -> None:
    """k3 and absolute gap between given behavior log-probs and the learner's old ones, over learnt tokens."""
    ranks = groups_of_ranks[2]
    ranks.start(replace(MOVING, ranks=2), models["untied"], models["untied-reference"])
    report = ranks.scatter("update", batches(LATER, TWO_STEPS, 80, 2), TWO_STEPS)[0]
    model, gaps = naive.load(models["untied"]), []
    for part in (LATER[:3], LATER[3:]):
        for item in naive.weighted(part, TWO_STEPS):
            with torch.no_grad():
                old = naive.logprobs(model, item.trajectory, 0.6)[0].numpy()
            gaps.append(old - item.trajectory.behavior_logprobs.astype(np.float64))
    gap = np.concatenate(gaps)  # log pi_old - log mu
    k3 = np.exp(gap) - gap - 1  # of KL(mu || pi_old), on tokens that mu sampled
    assert report.mismatch_mean_abs == pytest.approx(np.abs(gap).mean(), rel=1e-4)
    assert report.mismatch_max_abs == pytest.approx(np.abs(gap).max(), rel=1e-4)
    assert report.mismatch_kl == pytest.approx(k3.mean(), rel=1e-3)
