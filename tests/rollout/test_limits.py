"""Caps by mode, aborted batches and incomplete weights on real vLLM, and the vLLM internals that the engine uses."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import OnWeightSync, RolloutConf
from rollout.mode import MODES, ControlTokens, Mode
from rollout.request import RolloutRequest, SamplingParams
from rollout.trajectory import Finish
from rollout.worker import RolloutWorker
from tests.helpers.engines import MakeWorker, SharedWorker, complete, rollout_request, sampled, vllm_scheduler
from tests.helpers.policies import Policies, pushes, until
from tests.helpers.prompts import make_prompts

# ---------------------------------------------------------------------- caps by mode


@pytest.fixture(scope="module")
def of_each_mode(shared_worker: SharedWorker, control: ControlTokens) -> RolloutRequest:
    """Some answers of each mode and of none: a random model seldom begins with a control token."""
    worker, prompts = shared_worker.worker, make_prompts(250, seed=3)
    many = rollout_request(prompts, 32, SamplingParams(1.0, 1.0, 1))
    by_mode: dict[Mode | None, list[tuple[int, int]]] = {mode: [] for mode in (*MODES, None)}
    for pair, t in zip(many.siblings, complete(many, worker.sample(many)), strict=True):
        if len(by_mode[t.mode]) < 32:
            by_mode[t.mode].append(pair)
    assert min(map(len, by_mode.values())) > 10
    siblings = tuple(pair for pairs in by_mode.values() for pair in pairs)
    return replace(many, siblings=siblings, sampling=replace(many.sampling, max_response_tokens=24))


@pytest.mark.parametrize("pushed", [False, True])
def test_caps_by_mode_are_exact_and_change_nothing_before(
    rollout_worker: RolloutWorker, way: OnWeightSync, of_each_mode: RolloutRequest, policies: Policies, pushed: bool
) -> None:
    """Exact, and bit-equal to the uncapped answer up to there; other modes go on."""
    free = complete(of_each_mode, rollout_worker.sample(of_each_mode))
    capped = replace(of_each_mode, sampling=replace(of_each_mode.sampling, max_tokens_short=5, max_tokens_think=9))
    if pushed:
        with pushes(rollout_worker, lambda v: policies.weights(v, 0), 3, most=2):
            cut = complete(capped, rollout_worker.sample(capped))
    else:
        cut = complete(capped, rollout_worker.sample(capped))
    for one, other in zip(free, cut, strict=True):
        length = min({Mode.SHORT: 5, Mode.THINK: 9, None: 24}[one.mode], len(one.token_ids))
        assert len(other.token_ids) == length and other.mode == one.mode
        assert other.finish is (one.finish if length == len(one.token_ids) else Finish.LENGTH)
        assert np.array_equal(one.token_ids[:length], other.token_ids)
        assert np.array_equal(one.behavior_logprobs[:length], other.behavior_logprobs)
    assert sum(len(one.token_ids) > len(other.token_ids) for one, other in zip(free, cut, strict=True)) > 20


def test_a_forced_modes_cap_includes_the_control_token(rollout_worker: RolloutWorker) -> None:
    """Counted with the control token that was given; the other mode's does not count."""
    prompts = make_prompts(20)
    for mode, length in ((Mode.SHORT, 6), (Mode.THINK, 24)):
        request = rollout_request(prompts, 2, SamplingParams(1.0, 1.0, 24, mode, max_tokens_short=6))
        lengths = [
            len(t.token_ids) for t in complete(request, rollout_worker.sample(request)) if t.finish is Finish.LENGTH
        ]
        assert lengths and set(lengths) == {length}


# ---------------------------------------------------------------------- giving up, failing, ending


def test_an_aborted_batch_leaves_concurrent_ones_whole(rollout_worker: RolloutWorker, policies: Policies) -> None:
    """With others under way and weights coming: the others come whole, what had ended too."""
    doomed, kept = (
        rollout_request(make_prompts(20), 2, SamplingParams(1.0, 1.0, 200), 4),
        rollout_request(make_prompts(20), 2, SamplingParams(1.0, 1.0, 60), 5),
    )
    calm = rollout_worker.sample(doomed)
    with pushes(rollout_worker, lambda v: policies.weights(v, 0), 4), ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(rollout_worker.sample, doomed), pool.submit(rollout_worker.sample, kept)
        until(lambda: rollout_worker.scheduler.running)
        time.sleep(0.3)
        lost = rollout_worker.abort(4)
        assert lost == list(first.result().lengths).count(0) > 0
        assert (second.result().lengths > 0).all()
    for one, other in zip(complete(doomed, calm), sampled(doomed, first.result()), strict=True):
        assert other is None or np.array_equal(one.token_ids, other.token_ids)
    assert rollout_worker.engine.unfinished == 0


def test_nothing_is_sampled_by_incomplete_weights(tiny_model: Path, policies: Policies, make_worker: MakeWorker,
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Nothing is sampled by what has come so far; answers under way wait, and whole weights let them go on."""
    worker = make_worker(tiny_model, RolloutConf(kv_cache_gib=0.05))
    monkeypatch.setattr(worker.engine, "close", lambda: None)  # it would take vLLM's groups from the other engines
    request = rollout_request(make_prompts(8), 2, SamplingParams(1.0, 1.0, 12))
    calm = worker.sample(request)
    (entry,) = [e for e in policies.weights(1).entries if "layers.1.mlp.down_proj" in e.name]
    whole = policies.weights(1, 0)
    half = replace(
        whole, entries=tuple(e if e.name != entry.name else replace(e, name="model.no") for e in whole.entries)
    )
    with pytest.raises(ValueError, match="no module or parameter named 'no'"):
        worker.load(half)
    assert worker.ready() == 0
    worker.load(policies.weights(2, 0))
    again = worker.sample(request)
    assert np.array_equal(calm.behavior_logprobs, again.behavior_logprobs) and set(again.versions.tolist()) == {2}
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(worker.sample, rollout_request(make_prompts(8), 2, SamplingParams(1.0, 1.0, 1000)))
        until(lambda: worker.scheduler.running)
        with pytest.raises(ValueError, match="no module or parameter named 'no'"):
            worker.load(half)
        assert not worker.engine.awake and not under_way.done()
        with pytest.raises(RuntimeError, match="a push after version 2 failed half-way"):
            worker.engine.step()
        worker.load(policies.weights(3, 0))  # from a learner that started again
        versions = {*under_way.result().versions.tolist()}
    assert {2, 3} >= versions and 3 in versions
    worker.close()


PARTS = [
    "1.self_attn.k_proj.weight",
    "1.self_attn.q_proj.bias",
    "0.mlp.up_proj",
    "2.mlp.down_proj",
    "model.norm",
    "lm_head",
]


def test_incomplete_weights_are_rejected_with_the_missing_part(
    rollout_worker: RolloutWorker, policies: Policies
) -> None:
    """Named, also where vLLM joins several into one matrix; and nothing of a part that came stays when all come."""
    request = rollout_request(make_prompts(8), 2, SamplingParams(1.0, 1.0, 12))
    rollout_worker.load(policies.weights(1, 1))
    calm = rollout_worker.sample(request)
    for part, where in zip(PARTS, ("qkv_proj", "qkv_proj", "gate_up_proj", "down_proj", "model.norm", "lm_head")):
        for variant, lacks in ((0, True), (1, False)):
            weights = policies.weights(2, variant)
            entries = tuple(entry for entry in weights.entries if part not in entry.name)
            assert len(entries) == len(weights.entries) - 1
            if lacks:
                with pytest.raises(ValueError, match=rf"not the whole model's: only [\d,]+ of [\d,]+ .*{where}$"):
                    rollout_worker.load(replace(weights, entries=entries))
            else:
                rollout_worker.load(weights)
        assert np.array_equal(rollout_worker.sample(request).behavior_logprobs, calm.behavior_logprobs), part


# ---------------------------------------------------------------------- what we rely on


def test_the_vllm_internals_that_the_engine_uses_exist(rollout_worker: RolloutWorker) -> None:
    """Its insides that `rollout.engine` uses: an upgrade that moves them fails here, and not in a run."""
    from rollout.engine import Request

    engine = rollout_worker.engine
    vllm: Any = engine.engine
    engine.add(0, Request([2, 40, 50, 3], 8, 1.0, 1.0, 0))
    scheduler = vllm_scheduler(engine)
    (internal,) = scheduler.requests
    state = vllm.output_processor.request_states[internal]
    assert state.detokenizer.output_token_ids == [] and scheduler.requests[internal].max_tokens == 8
    assert scheduler.requests[internal].cache_salt.isdigit()
    assert engine.step() == [] and len(state.detokenizer.output_token_ids) == 1
    vllm.engine_core.set_weight_version("41")
    assert vllm.reset_prefix_cache() is False  # among running sequences, in silence
    assert engine.step() == [] and len(state.detokenizer.output_token_ids) == 2
    assert vllm.reset_prefix_cache(reset_running_requests=True) is True
    assert scheduler.requests[internal].num_output_tokens == 2
    scheduler.requests[internal].max_tokens = 3
    ((_, sample),) = engine.step()
    assert sample.versions.tolist() == [0, 41, 41] and not sample.stopped and not sample.aborted
    assert internal not in scheduler.requests and internal not in vllm.output_processor.request_states
    vllm.engine_core.set_weight_version("0")
    assert vllm.reset_prefix_cache() is True
