"""Sampler and learner hold the same policy after every weight sync, and the log-prob check detects it otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import AlgorithmConf, Config, Dtype, LearnerConf, ModelConf, RolloutConf, RunConf
from learner.data.batch import Sequence
from learner.data.pack import pack
from learner.learner import Learner
from learner.loss import Totals
from orchestrator.base.errors import RunError
from orchestrator.training.logprob_check import LogprobCheck, differences, logprob_gaps
from rollout.mode import Mode
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory
from rollout.weight_sync.sync import WeightSync
from rollout.worker import RolloutWorker
from tests.helpers.engines import MakeLearner, MakeWorker, SharedWorker
from tests.helpers.handles import LocalHandle, PendingHandle
from tests.helpers.prompts import make_prompts

MAX_TOKENS = 2048
SAMPLING = SamplingParams(1.0, 1.0, 24)


def learn(learner: Learner, trajectories: list[Trajectory], seed: int) -> None:
    """One real update on random advantages: every weight moves by about the learning rate."""
    rng = np.random.default_rng(seed)
    sequences = []
    for t in trajectories:
        ones = np.full(len(t.token_ids), 1 / len(t.token_ids) / len(trajectories), np.float32)
        ids = np.concatenate([t.prompt.token_ids, t.token_ids])
        advantage = float(rng.choice([-1.0, 1.0]))
        sequences.append(Sequence(ids, len(t.prompt.token_ids), ones, ones, advantage, t.behavior_logprobs, 0))
    totals = Totals(len(sequences), 1, 1)
    report = learner.apply([pack(sequences, totals, MAX_TOKENS, 1)], AlgorithmConf(kl=0.0))
    assert report is not None and not report.skipped


def push(sampler: Sampler, learner: Learner, version: int) -> None:
    WeightSync(learner.ranks, sampler, True).start(version)


def checking(every: int) -> Config:
    return Config(run=RunConf(logprob_check_every=every), learner=LearnerConf(max_tokens=MAX_TOKENS))


def largest_gap(trajectories: list[Trajectory], learner: Learner, temperature: float) -> float:
    gaps = logprob_gaps(trajectories, learner, temperature, MAX_TOKENS)
    assert len(gaps) == sum(len(t.token_ids) - t.forced for t in trajectories)
    return float(np.abs(gaps).max())


@pytest.fixture(scope="module")
def untied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` with an output head of its own."""
    import torch
    from transformers import AutoConfig, Qwen2ForCausalLM

    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    folder = tmp_path_factory.mktemp("untied")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tied", "untied"])
def pair(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    untied_model: Path,
    make_worker: MakeWorker,
    make_learner: MakeLearner,
) -> tuple[Sampler, Learner]:
    """Sampler and learner that begin with the same folder."""
    folder = tiny_model if request.param == "tied" else untied_model
    if request.param == "tied":
        worker = request.getfixturevalue("rollout_worker")
    else:
        worker = make_worker(folder, RolloutConf(kv_cache_gib=0.05))
    return Sampler([LocalHandle(worker)], SAMPLING), make_learner(folder)


@pytest.fixture
def tied(rollout_worker: RolloutWorker, tiny_model: Path, make_learner: MakeLearner) -> tuple[Sampler, Learner]:
    return Sampler([LocalHandle(rollout_worker)], SAMPLING), make_learner(tiny_model)


def test_sampler_and_learner_agree_after_every_weight_sync(pair: tuple[Sampler, Learner]) -> None:
    """At temperatures 1 and 0.6, with free and forced modes, over five updates that each change the policy."""
    sampler, learner = pair
    prompts = make_prompts(16)
    trajectories: list[Trajectory] = []
    for version in range(6):
        if version:
            learn(learner, trajectories, version)
            assert largest_gap(trajectories, learner, 1.0) > 0.1  # the sampler's weights are old now
            push(sampler, learner, version)
        for temperature in (0.6, 1.0):
            sampling = replace(SAMPLING, temperature=temperature)
            for mode in (Mode.THINK, None):
                trajectories = sampler.sample(prompts, 2, version, replace(sampling, mode=mode)).wait()
                assert all(set(t.versions) == {version} for t in trajectories)
                assert largest_gap(trajectories, learner, temperature) <= 1e-4, (version, temperature, mode)


def test_the_check_passes_after_a_complete_weight_sync(tied: tuple[Sampler, Learner]) -> None:
    sampler, learner = tied
    check = LogprobCheck(sampler, learner, make_prompts(20), checking(1))
    check.check(0)
    learn(learner, sampler.sample(make_prompts(16), 2, 0).wait(), seed=0)
    push(sampler, learner, 1)
    figures = check.check(1)
    assert 0 < figures["mean_abs"] <= figures["max_abs"] <= 1e-4
    assert abs(figures["kl"]) < 1e-7
    sampler.sampling = replace(SAMPLING, temperature=0.6)
    assert check.check(1)["max_abs"] <= 1e-4


def test_the_check_can_be_turned_off(tiny_model: Path, make_learner: MakeLearner) -> None:
    worker = PendingHandle()
    check = LogprobCheck(Sampler([worker], SAMPLING), make_learner(tiny_model), make_prompts(1), checking(0))
    assert check.check(0) == {} and not worker.calls


def test_the_check_detects_a_missing_weight_sync(tied: tuple[Sampler, Learner]) -> None:
    sampler, learner = tied
    learn(learner, sampler.sample(make_prompts(16), 2, 0).wait(), seed=0)
    check = LogprobCheck(sampler, learner, make_prompts(8), checking(1))
    with pytest.raises(RunError, match="after the push of step 1 sampler and learner disagree"):
        check.check(1)


def test_the_check_detects_a_stale_tied_head(tied: tuple[Sampler, Learner]) -> None:
    """vLLM keeps a packed copy of the output head on the CPU, which embeddings alone do not change."""
    sampler, learner = tied
    before = learner.ranks[0].call("publish", 0).wait().copy()
    learn(learner, sampler.sample(make_prompts(16), 2, 0).wait(), seed=0)
    after = learner.ranks[0].call("publish", 1).wait()
    (head,) = [entry for entry in after.entries if entry.name == "lm_head.weight"]
    stale = replace(
        after,
        entries=tuple(replace(e, buffer=len(after.buffers)) if e is head else e for e in after.entries),
        buffers=(*after.buffers, before.buffers[head.buffer]),
    )
    sampler.workers[0].call("load", stale).wait()
    check = LogprobCheck(sampler, learner, make_prompts(8), checking(1))
    with pytest.raises(RunError, match="the weights did not arrive whole"):
        check.check(1)
    push(sampler, learner, 1)
    check.check(1)


def test_the_check_detects_one_percent_in_one_layer(tied: tuple[Sampler, Learner]) -> None:
    """Close is not the same: one matrix of twenty off by a hundredth."""
    sampler, learner = tied
    published = learner.ranks[0].call("publish", 1).wait().copy()
    (entry,) = [e for e in published.entries if e.name == "model.layers.1.mlp.down_proj.weight"]
    published.buffers[entry.buffer][entry.offset : entry.offset + entry.size].view(np.float32)[:] *= 1.01
    sampler.workers[0].call("load", published).wait()
    check = LogprobCheck(sampler, learner, make_prompts(8), checking(1))
    with pytest.raises(RunError, match="disagree"):
        check.check(1)


def bounded(dtype: Dtype, bounds: dict[str, float]) -> LogprobCheck:
    run = RunConf()
    for name, value in bounds.items():
        setattr(run, f"logprob_check_{name}", value)
    conf = Config(run=run, model=ModelConf(dtype=dtype))
    return LogprobCheck(Sampler([], SAMPLING), Learner([], conf.learner), [], conf)


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("count", [300, 2000, 20_000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_single_token_stops_no_run(dtype: Dtype, count: int, sign: int) -> None:
    """Far off, where nothing else is: it is reported."""
    gaps = np.zeros(count, np.float32)
    gaps[7] = sign * (0.005 if dtype is Dtype.float32 else 5.0)
    figures = bounded(dtype, {}).bound(gaps, 1)
    assert figures["max_abs"] == pytest.approx(abs(gaps[7])) and figures["mean_abs"] < figures["max_abs"] / 200


@pytest.mark.parametrize(
    ("share", "gap", "named"),
    [(1.0, 7e-5, "mean_abs"), (0.002, 0.0099, "p999_abs"), (0.2, 0.01, "kl")],
)
def test_each_bound_stops_the_run_by_name(share: float, gap: float, named: str) -> None:
    """A little on every token, more on a few of a thousand, much on some."""
    gaps = np.zeros(10_000, np.float32)
    gaps[: int(share * len(gaps))] = gap
    off = dict.fromkeys(("mean_abs", "p999_abs", "kl"), 100.0)
    with pytest.raises(RunError, match=f"run.logprob_check_{named}: "):
        bounded(Dtype.float32, {name: bound for name, bound in off.items() if name != named}).bound(gaps, 1)
    bounded(Dtype.float32, off).bound(gaps, 1)


def test_bounds_that_were_given_hold_for_any_number_of_tokens() -> None:
    """By themselves quantile and KL estimate need many."""
    gaps = np.full(100, 0.01, np.float32)
    loose = {"mean_abs": 1.0}
    bounded(Dtype.float32, loose).bound(gaps, 1)
    for name in ("p999_abs", "kl"):
        with pytest.raises(RunError, match=f"run.logprob_check_{name}: "):
            bounded(Dtype.float32, {**loose, name: 1e-6}).bound(gaps, 1)


def test_the_kl_estimate_is_that_of_two_known_distributions() -> None:
    """k3's mean over samples of one is the KL of one to the other."""
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(50)), rng.dirichlet(np.ones(50))
    other = 0.9 * one + 0.1 * other
    at = rng.choice(50, 400_000, p=one)
    gaps = np.log(other / one)[at]
    assert differences(gaps)["kl"] == pytest.approx(float((one * np.log(one / other)).sum()), rel=0.02)


@pytest.fixture
def cached(rollout_worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Prompt tokens taken from the prefix cache since the last call."""
    engine = rollout_worker.engine.engine
    seen: list[int] = []
    step = engine.step

    def observed() -> Any:
        outputs = step()
        seen.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(engine, "step", observed)

    def taken() -> int:
        total = sum(seen)
        seen.clear()
        return total

    return taken


def test_a_weight_sync_drops_cached_prefixes(tied: tuple[Sampler, Learner], cached: Callable[[], int]) -> None:
    """The same long prompts before and after: cached within a version, never across, and both agree all along."""
    sampler, learner = tied
    prompts = make_prompts(8, length=300)
    for version in range(3):
        trajectories = sampler.sample(prompts, 1, version).wait()
        assert cached() == 0, version
        assert largest_gap(trajectories, learner, 1.0) <= 1e-4
        trajectories = sampler.sample(prompts, 1, version + 100).wait()
        assert cached() >= 8 * 128  # whole blocks of each prompt
        assert largest_gap(trajectories, learner, 1.0) <= 1e-4
        learn(learner, trajectories, version)
        push(sampler, learner, version + 1)


def test_a_weight_sync_of_the_same_version_drops_cached_prefixes(
    tied: tuple[Sampler, Learner], cached: Callable[[], int]
) -> None:
    """It is the push that counts, not its number."""
    sampler, learner = tied
    prompts = make_prompts(8, length=300)
    for _ in range(2):
        learn(learner, sampler.sample(prompts, 1, 0).wait(), seed=0)
        push(sampler, learner, 7)
        cached()
        trajectories = sampler.sample(prompts, 1, 1).wait()
        assert cached() == 0
        assert largest_gap(trajectories, learner, 1.0) <= 1e-4


def test_tokens_after_a_weight_sync_have_its_version(
    rollout_worker: RolloutWorker, shared_worker: SharedWorker
) -> None:
    """They go on; each token says which weights sampled it, and a request that had none yet begins by the new ones."""
    from rollout.engine import Request

    engine = rollout_worker.engine
    for recompute in (False, True):
        before = engine.version
        engine.add(0, Request([2, 40, 3], 5, 1.0, 1.0, 0))
        assert engine.step() == engine.step() == []
        engine.add(1, Request([2, 40, 3], 5, 1.0, 1.0, 0))
        engine.load(replace(shared_worker.weights, version=9 + recompute), recompute)
        done = dict(sample for _ in range(5) for sample in (engine.step() if engine.unfinished else []))
        assert done[0].versions.tolist() == [before] * 2 + [9 + recompute] * 3
        assert done[1].versions.tolist() == [9 + recompute] * 5
        assert np.array_equal(done[0].behavior_logprobs, done[1].behavior_logprobs)
