"""One vLLM engine: samples follow from request and weights alone; log-probs are those after temperature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conf.schema import Config, ModelConf, RolloutConf
from orchestrator.plan.hardware import CPU
from orchestrator.plan.memory import cache_tokens, engine_items
from orchestrator.plan.model_shape import model_shape
from rollout.base.errors import BadInput
from rollout.engine import Engine, Request, Sample
from rollout.mode import ControlTokens
from rollout.worker import RolloutWorker
from tests.helpers.engines import MakeWorker, generate, preempted


def requests(count: int, prompt: int = 20, tokens: int = 24, seed: int = 0, temperature: float = 1.0) -> list[Request]:
    """Random prompts of `prompt`.. tokens; token limits from `tokens` down, so that they end at different times."""
    rng = np.random.default_rng(seed)
    return [
        Request(
            rng.integers(8, 264, prompt + i % 5).tolist(), tokens - i % 7, temperature, 1.0, int(rng.integers(2**63))
        )
        for i in range(count)
    ]


def same(one: Sample, other: Sample) -> bool:
    """Equal to the last bit."""
    return np.array_equal(one.token_ids, other.token_ids) and np.array_equal(
        one.behavior_logprobs, other.behavior_logprobs
    )


@pytest.fixture
def engine(rollout_worker: RolloutWorker) -> Engine:
    return rollout_worker.engine


def test_the_same_seed_gives_the_same_sample(engine: Engine) -> None:
    batch = requests(16)
    assert all(map(same, generate(engine, batch), generate(engine, batch)))


def test_another_seed_gives_another_sample(engine: Engine) -> None:
    batch = requests(16)
    others = [replace(r, seed=r.seed ^ 1) for r in batch]
    pairs = zip(generate(engine, batch), generate(engine, others), strict=True)
    assert not any(np.array_equal(one.token_ids, other.token_ids) for one, other in pairs)


def test_seeds_count_in_their_low_32_bits(engine: Engine) -> None:
    """All that torch's generator for the CPU takes of a seed: `derive_seed` must differ there, and not only above."""
    (request,) = requests(1)
    high, low = [[replace(request, seed=3 + (i << shift)) for i in range(8)] for shift in (32, 29)]
    assert len({tuple(s.token_ids) for s in generate(engine, low)}) == 8
    assert len({tuple(s.token_ids) for s in generate(engine, high)}) == 1


def test_a_sample_does_not_depend_on_the_batch(engine: Engine) -> None:
    """Alone, in another order, in another company: the same bits (one thread)."""
    batch = requests(48)
    together = generate(engine, batch)
    for i in (0, 17, 47):
        assert same(generate(engine, [batch[i]])[0], together[i])
    order = np.random.default_rng(1).permutation(48)
    shuffled = generate(engine, [batch[i] for i in order] + requests(20, prompt=60, seed=9))
    assert all(same(shuffled[place], together[i]) for place, i in enumerate(order))


def test_samples_keep_the_order_and_limits_of_their_requests(engine: Engine) -> None:
    """More requests than run at one time, of different lengths: each answer stands in its own place."""
    batch = [Request([2, 3], 1 + i % 9, 1.0, 1.0, i) for i in range(engine.conf.max_num_seqs + 44)]
    lengths: list[int] = []
    samples = generate(engine, batch, lengths.append)
    assert len(samples) == len(batch) and sum(lengths) == sum(len(s.token_ids) for s in samples)
    for request, sample in zip(batch, samples, strict=True):
        assert len(sample.behavior_logprobs) == len(sample.token_ids)
        assert sample.stopped or len(sample.token_ids) == request.max_tokens


def test_end_of_sequence_is_the_last_id(engine: Engine, control: ControlTokens) -> None:
    samples = generate(engine, requests(200, tokens=64))
    assert {s.stopped for s in samples} == {True, False}
    for sample in samples:
        assert (sample.token_ids[-1] == control.eos) == sample.stopped and not sample.aborted
        assert control.eos not in sample.token_ids[:-1]


def test_every_end_token_ends_a_response(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is not the tokenizer's own: the sample is what it was, up to and with the first of them."""
    batch = requests(100, tokens=64)
    before = generate(engine, batch)
    ends = [*engine.ends, 50, 90]
    monkeypatch.setattr(engine, "ends", ends)
    after = generate(engine, batch)
    assert {int(s.token_ids[-1]) for s in after if s.stopped} == {*ends}
    for long, short in zip(before, after, strict=True):
        at = np.flatnonzero(np.isin(long.token_ids, ends))
        assert short.token_ids.tolist() == long.token_ids[: at[0] + 1 if len(at) else None].tolist()
        assert short.stopped == bool(len(at)) and not short.aborted


def test_no_requests_give_no_samples(engine: Engine) -> None:
    assert generate(engine, []) == []


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_after_temperature(engine: Engine, tiny_model: Path, temperature: float) -> None:
    """Against transformers in float64, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    batch = requests(12, temperature=temperature)
    worst = other = 0.0
    for request, sample in zip(batch, generate(engine, batch), strict=True):
        ids = torch.tensor([[*request.token_ids, *sample.token_ids.tolist()]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(request.token_ids) - 1 : -1]  # [T, V]
        chosen = torch.tensor(sample.token_ids, dtype=torch.int64)[:, None]
        expected = (logits / temperature).log_softmax(-1).gather(-1, chosen)[:, 0].numpy()
        plain = logits.log_softmax(-1).gather(-1, chosen)[:, 0].numpy()
        worst = max(worst, float(np.abs(sample.behavior_logprobs - expected).max()))
        other = max(other, float(np.abs(sample.behavior_logprobs - plain).max()))
    assert worst < 1e-4
    assert temperature == 1.0 or other > 0.1  # the test can tell the two apart


def test_samples_follow_the_models_distribution(engine: Engine) -> None:
    """The first token's frequencies over 4,000 seeds are those that the log-probs claim (chi-square, p > 1e-6)."""
    samples = generate(engine, [Request([2, 40, 50, 3], 1, 1.0, 1.0, seed) for seed in range(4000)])
    drawn = [int(s.token_ids[0]) for s in samples]
    logprob = {token: float(s.behavior_logprobs[0]) for token, s in zip(drawn, samples, strict=True)}
    expected = {token: 4000 * np.exp(value) for token, value in logprob.items() if 4000 * np.exp(value) >= 10}
    chi_square = sum((drawn.count(token) - e) ** 2 / e for token, e in expected.items())
    freedom = len(expected)
    assert freedom > 20
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 10


@pytest.fixture(scope="module")
def tight(tiny_model: Path, make_worker: MakeWorker) -> Engine:
    """Little of everything: one step prefills 512 tokens, and the key-value cache holds two thousand."""
    conf = RolloutConf(max_model_len=512, max_num_batched_tokens=512, max_num_seqs=64, kv_cache_gib=0.003)
    return make_worker(tiny_model, conf).engine


def test_prompts_beyond_one_steps_token_budget_wait_whole(engine: Engine, tight: Engine) -> None:
    """A seeded request whose prompt is split over steps would crash the CPU engine: 128 prompts of 200 tokens."""
    batch = requests(128, prompt=200, tokens=16)
    assert all(map(same, generate(tight, batch), generate(engine, batch)))


def test_preempted_requests_end_with_the_same_samples(
    engine: Engine, tight: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short prompts with long answers outgrow the cache: vLLM drops some and computes them again, to the same end."""
    dropped = preempted(tight, monkeypatch)
    batch = requests(40, prompt=20, tokens=300)
    assert all(map(same, generate(tight, batch), generate(engine, batch)))
    assert dropped


def test_prompts_beyond_one_steps_prefill_are_sampled(engine: Engine) -> None:
    """128 prompts of a thousand tokens: twice what one step prefills."""
    batch = requests(128, prompt=1000, tokens=8)
    assert sum(len(r.token_ids) for r in batch) > engine.conf.max_num_batched_tokens
    samples = generate(engine, batch)
    assert same(samples[77], generate(engine, [batch[77]])[0])


@pytest.mark.heavy
def test_a_folder_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"vLLM cannot start with model.path=.*config") as caught:
        Engine(RolloutConf(), ModelConf(), str(tmp_path), ends=[1])
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"model.path=/absent/model: there is no folder /absent/model on host "):
        Engine(RolloutConf(), ModelConf(), "/absent/model", ends=[1])


def test_vllms_start_up_error_is_reported_with_its_cause(tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"max_model_len \(4096\) is greater than .*max_position_embeddings=2048"):
        Engine(RolloutConf(max_model_len=4096), ModelConf(), str(tiny_model), ends=[1])


def test_an_engines_cache_holds_as_many_tokens_as_are_planned(engine: Engine, tiny_model: Path) -> None:
    cache = engine.engine.vllm_config.cache_config
    conf, model = replace(Config(), rollout=engine.conf), model_shape(ModelConf(path=str(tiny_model)))
    planned = cache_tokens(engine_items(conf, model, CPU)["cache"], conf, model, CPU)
    assert cache.num_gpu_blocks is not None and planned == cache.num_gpu_blocks * cache.block_size > 0
