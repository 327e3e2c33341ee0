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
from conf.compose import composed
from conf.schema import ModelConf, RolloutConf
from rollout.engine import Engine, Request, Sample
from rollout.weight_sync.weights import views
from tests.conftest import CONTROL
from tests.helpers.engines import TIED, generate, policy_weights, preempted, vllm_scheduler

pytestmark = pytest.mark.heavy
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

        check = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]

        def asynchronous(cls: Any, conf: Any) -> None:
            asked = conf.scheduler_config.async_scheduling
            check(cls, conf)
            conf.scheduler_config.async_scheduling = asked

        patch.setattr(CpuPlatform, "check_and_update_config", classmethod(asynchronous))
        for name in ("Event", "Stream"):
            patch.setattr(torch.cuda, name, _NoStream)
        patch.setattr(torch, "Event", _NoStream)
        patch.setattr(torch.cuda, "current_stream", _NoStream)
        patch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        engine = Engine(replace(CONF, async_scheduling=True), ModelConf(), str(tiny_model), [CONTROL.eos])
        assert type(vllm_scheduler(engine)).__name__ == "AsyncScheduler"
        assert type(vllm_scheduler(plain)).__name__ == "Scheduler"
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


def test_new_weights_and_sleep_find_no_step_on_its_way(engines: tuple[Engine, Engine], tiny_model: Path) -> None:
    """A step that was begun for sequences that then ended is waited for; with sequences in flight a load is refused."""
    named = [(name, tensor + 0.01) for name, tensor in policy_weights(tiny_model)]
    found = []
    for one in engines:
        before = generate(one, requests(20, seed=5))
        assert bool(one._core.batch_queue) == bool(one.conf.async_scheduling)
        one.load(views(named, one.version + 1, TIED).copy())
        assert not one._core.batch_queue
        after = generate(one, requests(20, seed=5))
        assert {int(v) for sample in after for v in sample.versions} == {one.version}
        assert not all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(before, after, strict=True))
        one.sleep(keep=True)
        assert not one._core.batch_queue
        one.wake()
        found += [before, after, generate(one, requests(20, seed=6))]
    for plain, asynchronous in zip(found[:3], found[3:], strict=True):
        assert_same(plain, asynchronous)
    busy = engines[1]
    busy.add(0, requests(1)[0])
    busy.step()
    with pytest.raises(RuntimeError, match=r"1 sequences are in flight: rollout\.async_scheduling must be false"):
        busy.load(views(named, busy.version + 1, TIED).copy())
    busy.abort([0])


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ("", False),
        ("rollout.device=gpu", True),
        ("rollout.device=gpu run.max_staleness=1", False),
        ("rollout.device=gpu run.max_staleness=1 rollout.on_weight_sync=drain", True),
        ("rollout.device=gpu rollout.async_scheduling=false", False),
    ],
)
def test_it_is_chosen_where_no_sequence_is_running_at_a_sync(arguments: str, chosen: bool) -> None:
    assert async_scheduling(composed(["experiment=quickstart", *arguments.split()])) is chosen
