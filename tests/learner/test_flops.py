"""FLOPs against torch's own counter on a real model, against parameter counts, and the table of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from learner.data.batch import Sequence
from learner.data.flops import Shape, device_peak, peak_flops, read_shape, shape_of, tokens_only, work
from learner.data.pack import buckets, pack
from learner.loss import Totals
from learner.metrics.efficiency import efficiency
from learner.model.attention import Layout
from learner.model.policy import load_policy

QWEN = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, ffn=8960, vocab=151936)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("lengths", [[20, 20, 20], [33], [9, 31, 12, 10, 8]], ids=str)
@pytest.mark.parametrize("model", ["tied", "untied"])
def test_torch_counts_the_same_flops(
    models: dict[str, str], model: str, lengths: list[int], checkpointing: bool
) -> None:
    """To the FLOP, forward and backward. torch counts attention whole, and its padding."""
    policy = load_policy(models[model], "float32", checkpointing=checkpointing).train()
    shape = read_shape(models[model])
    assert shape is not None and shape.gated
    ids = torch.randint(0, shape.vocab, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    places = torch.cat([torch.arange(n) for n in lengths])
    response = places >= 5
    sequences = [(n, n - 5) for n in lengths]
    run = (ids, places, response, Layout(lengths), 1.0, 16)
    attention = sum(len(b) * 2 * shape.attention(lengths[b[-1]]) for b in buckets(lengths))
    halved = sum(map(shape.attention, lengths))

    with torch.no_grad(), FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH):
        policy(*run)
    assert forward.get_total_flops() == sum(shape.cost(*one) for one in sequences) - halved + attention

    with FlopCounterMode(display=False) as both, sdpa_kernel(SDPBackend.MATH):
        policy(*run)[0].sum().backward()
    times = 4 if checkpointing else 3
    expected = work(shape, sequences, checkpointing=checkpointing).hardware + times * (attention - halved)
    assert both.get_total_flops() == expected


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_a_token_costs_two_flops_for_each_weight_it_meets(models: dict[str, str], model: str) -> None:
    policy, shape = load_policy(models[model], "float32"), read_shape(models[model])
    assert shape is not None
    linear = [m for m in policy.body.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear(1) == 2 * sum(m.weight.numel() for m in linear)
    assert shape.head(1) == 2 * policy.head.weight.numel()


def test_qwen_1p5b_has_its_published_size() -> None:
    """Qwen2.5-1.5B: 1.31 billion weights outside the embedding (its model card); attention takes over at length."""
    assert QWEN.linear(1) == pytest.approx(2 * 1.31e9, rel=0.01)
    assert QWEN.cost(1000, 500) == QWEN.linear(1000) + QWEN.attention(1000) + QWEN.head(500)
    assert QWEN.attention(500) < 0.02 * QWEN.linear(500)
    assert QWEN.attention(24576) > 0.75 * QWEN.linear(24576)
    assert QWEN.attention(2000) == 4 * QWEN.attention(1000)


def test_model_and_hardware_flops() -> None:
    sequences = [(1000, 900), (70, 1)]
    body = sum(QWEN.linear(n) + QWEN.attention(n) for n, _ in sequences)
    head = sum(QWEN.head(r) for _, r in sequences)
    again = body - 28 * 2 * 1536 * 8960 * 1070  # the layers' last products are not computed again
    plain, saved = work(QWEN, sequences), work(QWEN, sequences, checkpointing=True)
    assert plain.model == saved.model == 3 * (body + head)
    assert (plain.hardware, saved.hardware) == (3 * body + 4 * head, 3 * body + again + 4 * head)
    scored = work(QWEN, sequences, scored=2, checkpointing=True)
    assert (scored.model, scored.hardware) == (5 * (body + head), 5 * body + again + 6 * head)


CONFIG: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
}  # fmt: skip


def test_shapes_are_read_from_configurations(tmp_path: Path) -> None:
    assert shape_of(CONFIG) == Shape(1024, 28, 16, 8, 128, 3072, 151936)
    older = {k: v for k, v in CONFIG.items() if k not in ("head_dim", "num_key_value_heads")}
    assert shape_of(older) == Shape(1024, 28, 16, 16, 64, 3072, 151936)
    ungated = shape_of(CONFIG | {"model_type": "gpt_neox"})
    assert ungated is not None and not ungated.gated
    assert shape_of(CONFIG | {"num_experts": 64}) is None
    assert shape_of(CONFIG | {"layer_types": ["linear_attention", "full_attention"]}) is None
    assert shape_of({k: v for k, v in CONFIG.items() if k != "hidden_size"}) is None
    with pytest.raises(OSError):
        read_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA B200", 2250),
        ("AMD Instinct MI300X", 1307),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
        ("some device of 2030", None),
    ],
)
def test_peak_flops_by_device_name(name: str, tflops: float | None) -> None:
    assert peak_flops(name) == (None if tflops is None else tflops * 1e12)


def test_a_cpu_has_no_peak() -> None:
    assert device_peak(torch.device("cpu")) is None


def test_an_updates_efficiency_equals_the_one_worked_out_by_hand() -> None:
    """Two ranks, rows of 100: 60 + 40 tokens there, 50 here; with and without a known shape and peak."""
    sequences = []
    for prompt, response in ((10, 50), (5, 35), (20, 30)):
        values = np.ones(response, np.float32)
        ids = np.zeros(prompt + response, np.int32)
        sequences.append(Sequence(ids, prompt, values, values, 1.0, values, 0))
    shape = Shape(hidden=8, layers=1, heads=1, kv_heads=1, head_dim=8, ffn=8, vocab=10)
    batch = pack(sequences, Totals(3, 112, 115), 100, 2, tokens_only)
    found = efficiency([batch], shape, ranks=2, max_tokens=100, seconds=3.0, checkpointing=True, peak=1e6)
    done = work(shape, [(60, 50), (40, 35), (50, 30)], checkpointing=True)
    assert found.tokens_per_s == 150 / 3 / 2
    assert found.tflops == pytest.approx(done.model / 6 / 1e12)
    assert (
        found.mfu is not None
        and found.mfu == pytest.approx(done.model / 6 / 1e6)
        and found.hfu == pytest.approx(done.hardware / 6 / 1e6)
    )
    assert found.fill == 150 / 200
    assert sorted(tuple(mb.lengths) for rank in batch.ranks for mb in rank) == [(50, 40), (60,)]
    costs = [shape.cost(60, 50), shape.cost(40, 35) + shape.cost(50, 30)]
    assert found.imbalance == pytest.approx(max(costs) / (sum(costs) / 2))
    assert found.padding == 1 - 150 / (2 * 50 + 60)  # 40 is padded to 50
    twice = efficiency([batch, batch], shape, ranks=2, max_tokens=100, seconds=6.0, scored=[0, 2], peak=1e6)
    assert twice.mfu == pytest.approx(found.mfu * (3 + 5) / 6) and twice.fill == found.fill
    unknown = efficiency([batch], None, ranks=2, max_tokens=100, seconds=3.0)
    assert (unknown.tflops, unknown.mfu, unknown.hfu) == (None, None, None)
    assert unknown.imbalance == 90 / 75
