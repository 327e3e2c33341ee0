"""Asynchronous scheduling changes no token and no log-prob.

vLLM turns it off on a CPU, where it saves nothing. Here its scheduler, its queue of two steps and the model runner's
asynchronous output run on a CPU all the same, with CUDA's streams and events left out (as vLLM's own CPU runner does).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.chosen import async_scheduling
from conf.schema import Device, ModelConf, OnWeightSync, RolloutConf
from rollout.engine import Engine, Request, Sample
from rollout.weight_sync.weights import views
from tests.conftest import CONTROL
from tests.helpers.engines import TIED, generate, policy_weights, preempted, vllm_scheduler

pytestmark = pytest.mark.heavy
KEPT: list[Engine] = []  # to the end of the process: the first engine that goes takes vLLM's groups from the others
CONF = RolloutConf(kv_cache_gib=0.003, max_model_len=512, max_num_batched_tokens=512, max_num_seqs=64)


class _NoStream:
    """Stands for a CUDA stream or event where everything is done at once."""

    def __init__(self, *_: Any, **__: Any):
        import torch

        self.device = torch.device("cpu")

    def wait_stream(self, *_: Any) -> None: ...

    record = synchronize = wait = wait_stream


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> Iterator[tuple[Engine, Engine]]:
    """The same model without and with asynchronous scheduling."""
    plain = Engine(CONF, ModelConf(), str(tiny_model), [CONTROL.eos])
    with pytest.MonkeyPatch.context() as patch:
        import torch
        from vllm.platforms.cpu import CpuPlatform

        check = CpuPlatform.check_and_update_config.__func__

        def as_asked(cls: Any, conf: Any) -> None:
            asked = conf.scheduler_config.async_scheduling
            check(cls, conf)
            conf.scheduler_config.async_scheduling = asked

        patch.setattr(CpuPlatform, "check_and_update_config", classmethod(as_asked))
        for name in ("Event", "Stream"):
            patch.setattr(torch.cuda, name, _NoStream)
        patch.setattr(torch, "Event", _NoStream)
        patch.setattr(torch.cuda, "current_stream", _NoStream)
        patch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        engine = Engine(replace(CONF, async_scheduling=True), ModelConf(), str(tiny_model), [CONTROL.eos])
        assert type(vllm_scheduler(engine)).__name__ == "AsyncScheduler"
        assert type(vllm_scheduler(plain)).__name__ == "Scheduler"
        KEPT.extend((plain, engine))
        yield plain, engine


def requests(count: int, seed: int = 0, tokens: int = 24, **more: Any) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(rng.integers(8, 264, 20 + i % 5).tolist(), tokens - i % 7, 1.0, 1.0, int(rng.integers(2**63)), **more)
        for i in range(count)
    ]


def assert_same(one: list[Sample], other: list[Sample]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_array_equal(a.behavior_logprobs, b.behavior_logprobs)
        np.testing.assert_array_equal(a.versions, b.versions)
        assert (a.stopped, a.aborted) == (b.stopped, b.aborted)


def test_samples_are_the_same_bits(engines: tuple[Engine, Engine]) -> None:
    """More requests than run at a time, ended by tokens and by limits."""
    plain, engine = (generate(one, requests(150, tokens=60)) for one in engines)
    assert {sample.stopped for sample in plain} == {True, False}
    assert_same(plain, engine)


def test_limits_by_first_token_are_the_same(engines: tuple[Engine, Engine]) -> None:
    """The limit becomes known when the next step has begun already, and still cuts at the same token."""
    caps = {first: 2 + first % 5 for first in range(264)}
    plain, engine = (generate(one, requests(80, seed=1, caps=caps)) for one in engines)
    assert {len(sample.token_ids) for sample in plain} >= {2, 3, 4, 5, 6}
    assert_same(plain, engine)


def test_preempted_requests_are_the_same(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = preempted(engines[1], monkeypatch)
    plain, engine = (generate(one, requests(40, seed=2, tokens=300)) for one in engines)
    assert dropped
    assert_same(plain, engine)


def test_aborted_requests_leave_the_others_alone(engines: tuple[Engine, Engine]) -> None:
    """Half of them are aborted while a step with them is on its way; their keys are free at once."""
    found = []
    for one in engines:
        samples: dict[int, Sample] = {}
        for key, request in enumerate(requests(40, seed=3)):
            one.add(key, request)
        for _ in range(7):
            samples |= dict(one.step())
        gone = [key for key in range(0, 40, 2) if key not in samples]
        one.abort(gone)
        for key in gone:
            one.add(key, requests(40, seed=4)[key])
        while one.unfinished:
            samples |= dict(one.step())
        found.append([samples[key] for key in range(40)])
    assert_same(*found)


@pytest.mark.parametrize(("way", "sleeps"), [*((way, False) for way in OnWeightSync), (OnWeightSync.recompute, True)])
def test_new_weights_come_to_the_same_token(
    engines: tuple[Engine, Engine], tiny_model: Path, way: OnWeightSync, sleeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loads in mid-answer, again and again, asleep or not: the step on its way belongs to the old weights. Versions,
    too, are the same."""
    named = policy_weights(tiny_model)
    weights = [views([(n, t + 0.01 * i) for n, t in named], 0, TIED).copy() for i in range(3)]
    refused = 0
    found, first = [], 1 + max(one.version for one in engines)
    for one in engines:
        monkeypatch.setattr(one, "conf", replace(one.conf, on_weight_sync=way))
        samples: dict[int, Sample] = {}
        for key, request in enumerate(requests(12, seed=5, tokens=60)):  # the cache holds them all
            one.add(key, request)
        for version in range(first, first + 12):
            for _ in range(5 if way is not OnWeightSync.drain else 100):
                samples |= dict(one.step() if one.unfinished else [])
            if one._core.batch_queue and one.unfinished:
                refused += 1
                with pytest.raises(RuntimeError, match="a step on its way: settle it first"):
                    one.load(weights[0])
            if one.unfinished:
                samples |= dict(one.settle())
            if sleeps:
                one.sleep(keep=version % 2 == 0)
                one.wake(["weights"])
            one.load(replace(weights[version % 3], version=version), recompute=way is OnWeightSync.recompute)
            one.wake()
        while one.unfinished:
            samples |= dict(one.step())
        found.append([samples[key] for key in range(12)])
    assert_same(*found)
    assert refused or way is OnWeightSync.drain
    several = [len(set(sample.versions.tolist())) > 3 for sample in found[0]]
    assert sum(several) > 6 or way is OnWeightSync.drain


@pytest.mark.parametrize(
    ("device", "asked", "chosen"),
    [("cpu", None, False), ("gpu", None, True), ("gpu", False, False), ("gpu", True, True)],
)
def test_it_is_chosen_on_a_gpu(device: str, asked: bool | None, chosen: bool) -> None:
    assert async_scheduling(RolloutConf(device=Device(device), async_scheduling=asked)) is chosen
