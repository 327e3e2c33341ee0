"""The discrete-event model of the pipeline against closed forms, a token-by-token engine and the sampler's spread."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks._pipeline import layouts
from benchmarks._pipeline.measured import Library, fitted, line
from benchmarks._pipeline.scale import FREE_CACHE_GB
from conf.schema import OnWeightSync
from orchestrator.plan.costs import Batch, Costs, EngineCosts
from orchestrator.plan.layouts import Layout
from orchestrator.plan.simulation import Engine, Pipeline, Spread, _Share
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Finish, Trajectory
from tests.helpers.composing import composed
from tests.helpers.handles import PendingHandle


def batch_of(lengths: Any, prompts: int = 3, kinds: Any = None) -> Batch:
    lengths = np.asarray(lengths)
    count = len(lengths)
    given = np.zeros(count, int) if kinds is None else np.asarray(kinds)
    return Batch(given, np.full(count, prompts), lengths, np.ones(count, bool))


def ragged(seed: int, prompts: int = 6, group: int = 4) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        kinds = rng.integers(0, 3, prompts)
        lengths = 1 + rng.geometric(0.2 / (1 + kinds[:, None]), (prompts, group))
        yield batch_of(lengths, int(rng.integers(1, 9)), kinds)


def same(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def share_of(number: int, version: int, lengths: list[int], prompts: list[int]) -> _Share:
    return _Share(number, version, lengths, prompts, 0.0, left=len(lengths))


def steady(step: float = 0.25, slots: int = 64, **others: float) -> EngineCosts:
    """The same seconds a step whatever runs."""
    return EngineCosts((step,) * (slots + 1), **others)


# ---------------------------------------------------------------- one engine


def test_constant_lengths_take_the_time_of_the_closed_form() -> None:
    costs = EngineCosts((0.0, 0.5, 0.75), begin_s=0.125, prefill_s=0.25, end_s=0.0625)
    engine, share = Engine(costs, OnWeightSync.keep), share_of(0, 0, [10] * 5, [3] * 5)
    engine.post(2.0, share)
    engine.run()
    pair = 10 * 0.75 + 2 * (0.125 + 3 * 0.25 + 0.0625)  # two side by side, twice, then one alone
    alone = 10 * 0.5 + 0.125 + 3 * 0.25 + 0.0625
    assert share.end == 2.0 + 2 * pair + alone
    assert engine.busy == 2 * pair + alone


def test_each_step_costs_the_tokens_in_context() -> None:
    engine, share = Engine(steady(0.0, context_s=1.0), OnWeightSync.keep), share_of(0, 0, [4, 2], [5, 7])
    engine.post(0.0, share)
    engine.run()
    assert share.end == (5 + 6 + 7 + 8) + (7 + 8)
    assert engine.most_context == 5 + 2 + 7 + 2


def naive(costs: EngineCosts, on_weight_sync: OnWeightSync, arrivals: list[tuple[float, _Share | int]]) -> list[float]:
    """The same engine, token by token; returns when each share ended."""
    inbox, waiting = deque(arrivals), []
    ends: dict[int, float] = {}
    running: list[list[Any]] = []  # share's number, tokens to come, tokens so far
    postponed: list[int] = []
    left: dict[int, int] = {}
    now, version, redo = 0.0, 0, 0
    while True:
        while inbox and inbox[0][0] <= now:
            what = inbox.popleft()[1]
            if isinstance(what, _Share):
                left[what.batch] = len(what.lengths)
                waiting += [(what, length, prompt) for length, prompt in zip(what.lengths, what.prompts, strict=True)]
            elif on_weight_sync is OnWeightSync.drain and running:
                postponed.append(what)
            else:
                now, version = now + costs.load_s, what
                redo = sum(tokens for _, _, tokens in running) if on_weight_sync is OnWeightSync.recompute else 0
        while postponed and not running:
            now, version = now + costs.load_s, postponed.pop(0)
        begun = prompts = 0
        while waiting and not postponed and len(running) < costs.max_num_seqs and waiting[0][0].min_version <= version:
            share, length, prompt = waiting.pop(0)
            running.append([share.batch, length, prompt])
            begun, prompts = begun + 1, prompts + prompt
        if not running:
            if not inbox:
                return [ends[number] for number in sorted(ends)]
            now = max(now, inbox[0][0])
            continue
        now += costs.step_s[len(running)] + costs.context_s * sum(tokens for _, _, tokens in running)
        now += (costs.first_s if begun else 0.0) + costs.begin_s * begun + costs.prefill_s * (prompts + redo)
        redo = 0
        for one in running:
            one[1], one[2] = one[1] - 1, one[2] + 1
        ended = [one for one in running if one[1] == 0]
        running = [one for one in running if one[1]]
        now += costs.end_s * len(ended)
        for number, _, _ in ended:
            left[number] -= 1
            if not left[number]:
                ends[number] = now


@pytest.mark.parametrize("on_weight_sync", list(OnWeightSync))
@pytest.mark.parametrize("seed", range(25))
def test_the_event_driven_engine_equals_a_token_by_token_one(on_weight_sync: OnWeightSync, seed: int) -> None:
    rng = np.random.default_rng([seed, list(OnWeightSync).index(on_weight_sync)])
    slots = int(rng.integers(1, 6))
    costs = EngineCosts(
        (0.0, *np.sort(rng.random(slots)).tolist()),
        context_s=0.02 * float(rng.random()),
        first_s=0.2 * float(rng.random()),
        begin_s=0.02 * float(rng.random()),
        prefill_s=0.02 * float(rng.random()),
        end_s=0.1,
        load_s=0.7 * float(rng.random()),
    )
    arrivals: list[tuple[float, _Share | int]] = []
    time = version = 0.0
    for number in range(8):
        time += 4 * rng.random()
        count = int(rng.integers(1, 7))
        lengths, prompts = rng.integers(1, 30, count).tolist(), rng.integers(1, 9, count).tolist()
        arrivals.append((time, share_of(number, int(version), lengths, prompts)))
        if rng.random() < 0.6:
            time += 4 * rng.random()
            version += 1
            arrivals.append((time, int(version)))
    wanted = naive(costs, on_weight_sync, arrivals)
    engine = Engine(costs, on_weight_sync)
    for arrival, what in arrivals:
        engine.run(until=arrival)  # as the driver does: which learns of the future bit by bit
        engine.post(arrival, what)
    engine.run()
    shares = [what for _, what in arrivals if isinstance(what, _Share)]
    assert [share.end for share in shares] == pytest.approx(wanted, rel=1e-9)
    assert all(share.left == 0 and share.begun == len(share.lengths) for share in shares)


# ---------------------------------------------------------------- the loop


def test_staleness_0_is_the_sum_of_its_parts() -> None:
    batch = batch_of(np.full((4, 8), 20))
    costs = Costs(
        steady(load_s=0.5), lambda b: 3.0, lambda b: 0.125, lambda b: 0.25, lambda b: 0.75, lambda b: 0.375,
        lambda b: 0.0625, 0.03125, 1.5, 2.0,
    )  # fmt: skip
    steps = Pipeline(costs, 1, 0, 20.0).simulate(same(batch), 4)
    push = 1.5 + 2.0 + 0.5 + 0.03125
    whole = 0.125 + (0.03125 + 20 * 0.25 + 0.03125) + (0.75 + 0.03125) + 0.375 + 3.0 + push + 0.0625
    assert [step.seconds for step in steps] == pytest.approx([whole] * 4)
    assert [step.push for step in steps] == pytest.approx([push] * 4)
    assert all(step.sampled == 20 * 0.25 and step.learning == 3.0 and step.staleness == 0 for step in steps)


@pytest.mark.parametrize("learner", [2.0, 9.0])
def test_staleness_1_is_the_slower_of_its_parts(learner: float) -> None:
    costs = Costs(steady(0.25, slots=8), lambda batch: learner)
    steps = Pipeline(costs, 1, 1, 20.0).simulate(same(batch_of(np.full((1, 8), 20))), 12)
    assert [step.seconds for step in steps[3:-1]] == pytest.approx([max(20 * 0.25, learner)] * 8)
    both = Pipeline(costs, 1, 0, 20.0).simulate(same(batch_of(np.full((1, 8), 20))), 12)
    assert both[5].seconds == pytest.approx(20 * 0.25 + learner)


def test_a_straggler_delays_nobody_while_batches_are_in_flight() -> None:
    """Seven answers of 10 tokens and one of 80, 20 s in all: the step takes 20 s / (batches under way)."""
    batch = batch_of([[10] * 7 + [80]])
    costs = Costs(steady(0.25), lambda b: 0.01)
    for staleness in (1, 3):
        steps = Pipeline(costs, 1, staleness, 80.0).simulate(same(batch), 40)
        assert steps[30].end - steps[10].end == pytest.approx(20 * 20 / (staleness + 1), rel=0.15)


@pytest.mark.parametrize("on_weight_sync", list(OnWeightSync))
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
def test_the_staleness_bound_holds_and_every_sequence_is_sampled_once(
    on_weight_sync: OnWeightSync, workers: int, staleness: int
) -> None:
    """Beginning and ending cost a second, all else nothing: the seconds of sampling count sequences."""
    engine = EngineCosts((1e-9,) * 6, begin_s=1.0, end_s=1.0, load_s=0.5)
    for learner in (7.0, 500.0):  # the engines, then the learner, is what others wait for
        costs = Costs(engine, lambda b: learner, publish_s=0.3, transfer_s=2.0, call_s=0.1)  # noqa: B023
        steps = Pipeline(costs, workers, staleness, 50.0, on_weight_sync).simulate(ragged(staleness), 20)
        assert sum(step.sampled for step in steps) == pytest.approx(2 * 20 * 6 * 4, rel=1e-6)
        assert max(step.staleness for step in steps) <= staleness
        assert all(a.end == b.begin and a.seconds > 0 for a, b in itertools.pairwise(steps))
    assert max(step.staleness for step in steps) == staleness


def test_a_simulation_is_deterministic() -> None:
    costs = Costs(steady(0.1, slots=5, context_s=0.001), lambda b: 0.001 * b.tokens)
    first, again, other = (
        Pipeline(costs, 3, 2, 50.0).simulate(ragged(seed), 10) for seed in (7, 7, 8)
    )  # fmt: skip
    assert first == again != other


def test_keep_is_faster_than_recompute_and_drain() -> None:
    """Recomputing costs the tokens of running sequences again; draining leaves slots empty; keeping neither."""
    engine = steady(0.1, slots=5, prefill_s=0.02, load_s=0.01)
    seconds = {}
    for on_weight_sync in OnWeightSync:
        steps = Pipeline(Costs(engine, lambda b: 0.5), 1, 2, 50.0, on_weight_sync).simulate(ragged(3), 30)
        seconds[on_weight_sync] = steps[-3].end
    assert seconds[OnWeightSync.keep] < 0.95 * seconds[OnWeightSync.recompute]
    assert seconds[OnWeightSync.keep] < 0.95 * seconds[OnWeightSync.drain]


def test_more_slots_and_more_engines_help_until_the_longest_answer_is_left() -> None:
    lengths = np.arange(1, 65).reshape(16, 4)
    costs = Costs(steady(0.5, slots=4), lambda b: 0.0)

    def seconds(workers: int, slots: int) -> float:
        model = replace(costs, engine=steady(0.5, slots=slots))
        return Pipeline(model, workers, 0, 64.0).simulate(same(batch_of(lengths)), 3)[-1].seconds

    assert seconds(1, 4) > seconds(2, 4) > seconds(4, 4) > seconds(16, 4) == seconds(1, 64) == 0.5 * 64


# ---------------------------------------------------------------- samplers on the learner's GPUs


def test_a_sleeping_engine_goes_on_where_it_stopped_and_recomputes_what_it_had() -> None:
    """After 3 steps of 0.25 s it sleeps until 10: then 2 x (5 + 3) tokens are prefilled, and 7 steps are left."""
    engine = Engine(steady(0.25, prefill_s=0.125), OnWeightSync.recompute)
    share = share_of(0, 0, [10, 10], [5, 5])
    engine.post(0.0, share)
    begin = 2 * 5 * 0.125
    engine.run(until=begin + 3 * 0.25)
    engine.sleep(10.0, 1)
    engine.run()
    assert share.end == 10.0 + 2 * (5 + 3) * 0.125 + 7 * 0.25
    assert engine.busy == begin + 10 * 0.25 + 16 * 0.125 and engine.loaded == {1: 10.0} and share.oldest == 0


def test_colocated_staleness_0_adds_the_hand_over() -> None:
    batch = batch_of(np.full((4, 8), 20))
    apart = Costs(steady(load_s=0.5), lambda b: 3.0, call_s=0.03125)
    costs = replace(apart, to_learner_s=2.0, to_push_s=1.0, to_samplers_s=4.0)
    steps = Pipeline(costs, 1, 0, 20.0, shared=1).simulate(same(batch), 4)
    alone = Pipeline(apart, 1, 0, 20.0).simulate(same(batch), 4)
    assert [step.seconds for step in steps] == pytest.approx([step.seconds + 7.0 for step in alone])


@pytest.mark.parametrize(("workers", "shared"), [(1, 1), (3, 3), (3, 1)])
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_samplers_that_share_keep_the_bound_and_sample_every_sequence_once(
    workers: int, shared: int, staleness: int
) -> None:
    engine = EngineCosts((1e-9,) * 6, begin_s=1.0, end_s=1.0, load_s=0.5)
    costs = Costs(engine, lambda b: 30.0, call_s=0.1, to_learner_s=3.0, to_push_s=2.0, to_samplers_s=1.0)
    run = Pipeline(costs, workers, staleness, 50.0, OnWeightSync.recompute, shared)
    steps = run.simulate(ragged(staleness), 20)
    assert sum(step.sampled for step in steps) == pytest.approx(2 * 20 * 6 * 4, rel=1e-6)
    assert max(step.staleness for step in steps) <= staleness
    if workers == shared:  # nobody samples while the learner works
        assert all(step.seconds >= step.sampled / workers + 30.0 + 6.0 for step in steps)


def test_the_preset_is_the_layout_that_is_simulated_and_half_again_as_fast_as_the_former_one() -> None:
    """On GPUs, simulated: the result follows from stated assumptions alone."""
    (preset,) = composed("experiment=thinkless_1p5b")
    assert Layout.of(preset) == layouts.DEFAULT
    assert preset.rollout.prompts_per_step == layouts.PROMPTS and preset.run.steps == layouts.RUN
    found = {one: layouts.simulated(one, 8) for one in layouts.LAYOUTS}
    former, default = found[layouts.FORMER], found[layouts.DEFAULT]
    assert former.seconds / default.seconds >= 1.5
    assert default.staleness == 1 and default.cache_gb < FREE_CACHE_GB
    assert default.sampling + default.learning > 0.9 > former.sampling + former.learning
    others = [one.seconds for layout, one in found.items() if layout.staleness <= 1 and layout != layouts.DEFAULT]
    assert default.seconds < min(others)


# ---------------------------------------------------------------- the sampler


def test_requests_are_spread_as_the_sampler_does() -> None:
    rng = np.random.default_rng(5)
    workers = [PendingHandle() for _ in range(3)]
    sampler, spread = Sampler(workers, SamplingParams(1.0, 1.0, 40)), Spread(3, 40.0)
    numbers = iter(range(10**6))
    for number, batch in zip(range(6), ragged(1, prompts=11)):
        prompts = [
            Prompt(str(next(numbers)), "", np.zeros(int(p), np.int32), "1", "source", str(kind))
            for p, kind in zip(batch.prompts, batch.kinds)
        ]
        sampler.sample(prompts, 4, number)
        mine = dict(spread.shares(number, 0, batch, float(number)))
        for worker, handle in enumerate(workers):
            request = handle.requests[-1]
            wanted = [prompts.index(request.prompts[p]) for p, _ in request.siblings]
            assert mine[worker].lengths == [int(batch.lengths[i, s]) for i, (_, s) in zip(wanted, request.siblings)]
            if rng.random() < 0.5:  # this one ends before the next batch is requested
                handle.answers[-1].ended, mine[worker].end = True, number + 0.5
        spread.learn(batch)
        sampler.lengths.learn(
            [
                Trajectory(
                    prompt, s, np.zeros(int(n), np.int32), np.zeros(int(n), np.float32), Mode.THINK, Finish.STOP,
                    np.zeros(int(n), np.int32),
                )
                for prompt, lengths in zip(prompts, batch.lengths) for s, n in enumerate(lengths)
            ]
        )  # fmt: skip
    assert len({len(handle.calls) for handle in workers}) == 1 and math.isfinite(spread.means[0])


# ---------------------------------------------------------------- what is fitted to measurements


def test_an_engines_costs_are_fitted_despite_stalls() -> None:
    rng = np.random.default_rng(0)
    wanted = EngineCosts(
        tuple(0.004 + 1e-4 * n + 5e-5 * max(n - 32, 0) for n in range(257)), first_s=1e-3, begin_s=2e-4, end_s=3e-4
    )
    turns = []
    for _ in range(3000):
        running = int(rng.integers(1, 257))
        begun, ended = int(rng.integers(0, 9)), int(rng.integers(0, 9))
        beginning = wanted.first_s * bool(begun) + begun * wanted.begin_s
        turns.append((running, begun, ended, wanted.step_s[running] + beginning + ended * wanted.end_s))
    found = fitted(turns, 256)
    assert found.step_s[1:] == pytest.approx(wanted.step_s[1:], rel=0.01)
    assert (found.first_s, found.begin_s, found.end_s) == pytest.approx((1e-3, 2e-4, 3e-4), rel=0.01)
    stalled = [(n, b, e, s + (0.05 if i % 50 == 0 else 0.0)) for i, (n, b, e, s) in enumerate(turns)]
    again = fitted(stalled, 256)
    assert again.step_s[1:] == pytest.approx(wanted.step_s[1:], rel=0.01)


def test_a_librarys_batches_use_every_prompt_once_and_cut_long_answers() -> None:
    lengths = np.arange(1, 41).reshape(10, 4)
    library = Library(np.arange(10), np.full(10, 3), lengths, np.tile([1.0, 1.0, 1.0, 0.5], (10, 1)))
    batches = library.batches(5, 4, 38, -1.0, 0)
    first, second = next(batches), next(batches)
    assert sorted([*first.kinds, *second.kinds]) == list(range(10))
    assert sorted(np.concatenate([first.lengths, second.lengths]).ravel()) == sorted(np.minimum(lengths, 38).ravel())
    prompts, responses = first.sequences()
    assert first.learnt.all() and len(prompts) == len(responses) == 20 and responses.sum() == first.tokens
    alike = Library(np.zeros(1, int), np.full(1, 3), np.array([[5, 6, 9, 9]]), np.array([[1.0, 1.0, 1.0, 1.0]]))
    assert not next(alike.batches(1, 4, 9, -1.0, 0)).learnt[0]
    assert next(alike.batches(1, 4, 8, -1.0, 0)).learnt[0]  # the two that are cut off get another reward


def test_a_fitted_line_has_no_negative_coefficient() -> None:
    assert line((10, 3.0), (20, 5.0)) == pytest.approx((1.0, 0.2))
    assert line((10, 5.0), (20, 4.0)) == pytest.approx((4.5, 0.0))
    assert line((10, 1.0), (20, 4.0)) == pytest.approx((0.0, 5 / 30))
