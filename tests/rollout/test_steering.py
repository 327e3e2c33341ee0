"""The dial and the budget of thinking: in a real engine, in a model's config.json, in vLLM's rows of requests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conf.schema import ModelConf, RolloutConf
from rollout.base.errors import BadInput
from rollout.engine import Engine, Request, Sample
from rollout.mode import ControlTokens
from rollout.steering import FirstTokens, Steering, forget_dial, store_dial, stored_dial
from rollout.worker import RolloutWorker
from tests.helpers.engines import generate

CONF = RolloutConf(kv_cache_gib=0.25)


def requests(count: int, control: ControlTokens, end: tuple[int, ...] = (), temperature: float = 1.0) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request([*rng.integers(8, 264, 20).tolist(), *end], 24, temperature, 1.0, i) for i in range(count)]


def steered(folder: Path, control: ControlTokens, dial: float = 0.0, budget: int | None = None) -> Engine:
    return Engine(CONF, ModelConf(), str(folder), control.ends, steering=Steering(control, dial, budget))


def equal(one: Sample, other: Sample) -> bool:
    return np.array_equal(one.token_ids, other.token_ids)


@pytest.mark.heavy
def test_a_dial_changes_the_odds_of_the_first_token_and_nothing_else(
    rollout_worker: RolloutWorker, tiny_model: Path, control: ControlTokens
) -> None:
    """At a temperature of 2. P(think) of a prompt, known from what a dial of -100 leaves to the other tokens, gives
    what a dial of 4 leaves to them; an answer with a given mode, and what follows a first token, are the same to the
    last bit."""
    plain, never, more, always = rollout_worker.engine, *(steered(tiny_model, control, b) for b in (-100.0, 4.0, 100.0))
    given = requests(40, control, (control.think,)) + requests(40, control, (control.short,))
    assert all(map(equal, generate(plain, given), generate(more, given)))
    asked = requests(120, control, temperature=2.0)
    samples = [generate(engine, asked) for engine in (plain, never, more, always)]
    think = [sum(int(one.token_ids[0]) == control.think for one in found) for found in samples]
    assert think[1] == 0 and think[0] < think[2] < think[3] == 120
    same = [three for *three, _ in zip(*samples, strict=True) if len({int(one.token_ids[0]) for one in three}) == 1]
    assert len(same) > 60 and all(equal(one, two) and equal(one, three) for one, two, three in same)
    first = np.array([[float(one.behavior_logprobs[0]) for one in three] for three in same])
    p_think = 1 - np.exp(first[:, 0] - first[:, 1])
    expected = first[:, 0] - np.log1p(p_think * np.expm1(4 / 2))
    np.testing.assert_allclose(first[:, 2], expected, atol=1e-4)
    assert p_think.min() > 1e-4


class Rows:
    """Rows of requests as vLLM moves them about, and what the plugin adds to each."""

    def __init__(self) -> None:
        import torch

        from rollout.vllm_steering import FirstTokenBias

        self.torch = torch
        config = SimpleNamespace(
            hf_config=SimpleNamespace(first_token_bias={"bias": {"4": 2}, "control_tokens": [4, 6]})
        )
        self.plugin = FirstTokenBias(SimpleNamespace(model_config=config), torch.device("cpu"), False)

    def added(self, rows: int, update: Any = None) -> list[float]:
        self.plugin.update_state(update)
        return list(self.plugin.apply(self.torch.zeros(rows, 8))[:, 4].tolist())


def test_the_plugin_follows_requests_through_vllms_rows() -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    rows, sampled = Rows(), [list[int]() for _ in range(4)]
    added = [
        (0, None, [9], sampled[0]),
        (1, None, [9, 6], sampled[1]),  # its mode is given
        (2, None, None, sampled[2]),  # of embeddings
        (3, None, [9], [7]),  # was preempted: it goes on
    ]
    assert rows.added(4, BatchUpdate(4, [], added, [])) == [2, 0, 2, 0]
    swap = BatchUpdate(4, [], [], [(0, 1, MoveDirectionality.SWAP), (2, 3, MoveDirectionality.UNIDIRECTIONAL)])
    assert rows.added(4, swap) == [0, 2, 0, 2]
    sampled[2].append(5)
    assert rows.added(4) == [0, 2, 0, 0]
    assert rows.added(3, BatchUpdate(3, [1], [(0, None, [9], sampled[3])], [])) == [2, 0, 0]
    sampled[3].append(4)
    assert rows.added(3) == [0, 0, 0]


def test_a_dial_is_stored_and_taken_away(tmp_path: Path, control: ControlTokens) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "qwen2"}')
    store_dial(tmp_path, control, -1.5)
    found = json.loads(path.read_text())
    assert stored_dial(found) == -1.5 and found["model_type"] == "qwen2"
    assert FirstTokens.of(found) == FirstTokens({control.think: -1.5}, frozenset({control.think, control.short}))
    loaded = SimpleNamespace(**found)
    forget_dial(loaded)
    assert FirstTokens.of(loaded) == FirstTokens()
    store_dial(tmp_path, control, 0.0)
    assert json.loads(path.read_text()) == {"model_type": "qwen2"} and stored_dial({}) == 0
    for wrong in (101.0, -1e9, float("nan"), float("inf")):
        with pytest.raises(BadInput, match=r"is beyond what P\(think\) can express: from -100 to 100"):
            store_dial(tmp_path, control, wrong)
    with pytest.raises(BadInput, match="cannot be read"):
        stored_dial({"first_token_bias": {"bias": 3}})


@pytest.mark.heavy
def test_thinking_over_the_budget_is_closed_and_the_answer_goes_on(tiny_model: Path, control: ControlTokens) -> None:
    """Given or chosen by the model; what ends by itself before is left alone, and so are short answers."""
    engine = steered(tiny_model, control, 0.0, 6)
    closed = 0
    for one in generate(engine, requests(80, control, (control.think,))):
        ids = one.token_ids.tolist()
        end = ids.index(control.think_end) if control.think_end in ids else None
        assert end is None or end <= 6
        assert end is not None or len(ids) <= 6  # it ended before
        closed += end == 6 and len(ids) > 7
    assert closed > 60
    for one in generate(steered(tiny_model, control, 100.0, 6), requests(20, control)):
        ids = one.token_ids.tolist()
        assert ids[0] == control.think and (control.think_end in ids[1:8] or len(ids) <= 7)
