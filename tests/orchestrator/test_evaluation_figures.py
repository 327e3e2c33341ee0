"""The statistics of an evaluation: intervals that cover the truth, pass@k, majorities, routers, the dial, comparisons.

Truths are those of simulated models, whose chance to be right is known for every problem.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from orchestrator.evaluation.answers import Answer, Grid, grid
from orchestrator.evaluation.compare import differences
from orchestrator.evaluation.dial import calibration, trace
from orchestrator.evaluation.estimates import Estimate, mean, proportion, resampled
from orchestrator.evaluation.routing import routing
from orchestrator.evaluation.scores import majority_at, pass_at, scores
from rollout.mode import modes_of

Draw = Callable[[np.random.Generator], np.ndarray]


def made(
    rng: np.random.Generator,
    right: np.ndarray,
    tokens: np.ndarray | float = 10.0,
    p_think: np.ndarray | float = 0.5,
    samples: int = 4,
    way: str = "free",
) -> Grid:
    """right, tokens, p_think: f[P] of a problem; in the free way the modes are drawn."""
    problems = len(right)
    rate = np.broadcast_to(np.asarray(p_think, float), problems)
    answers = []
    for place, sample in itertools.product(range(problems), range(samples)):
        mode = way if way != "free" else "think" if rng.random() < rate[place] else "short"
        chosen = rate[place] if mode == "think" else 1 - rate[place]
        outcome = "correct" if rng.random() < right[place] else "wrong"
        answers.append(
            Answer(
                f"p{place}", way, sample, mode, outcome, None, None, None, "x",
                int(np.broadcast_to(tokens, problems)[place]), float(np.log(chosen)) if way == "free" else 0.0,
            )
        )  # fmt: skip
    return grid(answers, [f"p{i}" for i in range(problems)], samples)


# ---------------------------------------------------------------- intervals


def coverage(truth: float, draws: Iterator[np.ndarray], estimate: Callable[[np.ndarray], Estimate | None]) -> float:
    found = [estimate(values) for values in draws]
    assert all(one is not None and one.low <= one.value <= one.high for one in found)
    return float(np.mean([one is not None and one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize(
    "a, b, problems, samples",
    [(0.3, 0.7, 30, 8), (0.3, 0.7, 500, 4), (2, 2, 40, 16), (5, 0.3, 100, 4), (0.2, 3, 30, 64), (0.2, 3, 500, 1)],
)
def test_the_interval_of_an_accuracy_covers_the_truth(a: float, b: float, problems: int, samples: int) -> None:
    """Problems' chances to be right are Beta(a, b); goal 95 % +- 2, and the test's own noise of 0.5."""
    rng = np.random.default_rng(problems)
    draws = (rng.binomial(samples, rng.beta(a, b, problems)) / samples for _ in range(2000))
    assert 0.925 <= coverage(a / (a + b), draws, proportion) <= 0.98


@pytest.mark.parametrize("problems", [30, 100, 500])
def test_the_interval_of_mean_tokens_covers_the_truth(problems: int) -> None:
    rng = np.random.default_rng(problems)

    def lengths() -> np.ndarray:
        thinks = rng.random(problems) < 0.3
        normal = rng.standard_normal(problems)
        return np.where(thinks, 6500 * np.exp(0.85 * normal), 500 * np.exp(0.6 * normal))

    truth = 0.3 * 6500 * np.exp(0.85**2 / 2) + 0.7 * 500 * np.exp(0.6**2 / 2)
    assert 0.92 <= coverage(truth, (lengths() for _ in range(2000)), mean) <= 0.98


def test_intervals_at_the_edges() -> None:
    assert proportion(np.array([])) is None and mean(np.array([])) is None
    for value in (0.0, 1.0):
        whole = proportion(np.full(40, value))
        assert whole is not None and whole.value == value and 0.05 < abs(whole.high - whole.low) < 0.15
    single = proportion(np.array([0.5]))
    assert single == Estimate(0.5, 0.0, 1.0)
    assert mean(np.array([3.0, 3.0])) == Estimate(3.0, 3.0, 3.0)
    more = [proportion(np.resize([0.0, 1.0], n)) for n in (2, 4, 100, 10_000)]
    widths = [one.high - one.low for one in more if one is not None]
    assert widths == sorted(widths, reverse=True) and widths[-1] == pytest.approx(2 * 1.96 * 0.5 / 100, rel=0.01)


def test_the_bootstrap_keeps_problems_together_and_repeats() -> None:
    values = np.random.default_rng(1).random((1, 50))
    both = resampled(np.concatenate([values, 1 - values]))
    assert np.allclose(both.sum(axis=1), 1) and np.array_equal(both, resampled(np.concatenate([values, 1 - values])))
    assert both[:, 0].std() == pytest.approx(values.std() / np.sqrt(50), rel=0.1)


def test_weights_are_shares_of_levels() -> None:
    """As if every problem of a level were there as often as its share says."""
    rng = np.random.default_rng(8)
    values, weights = rng.random(60), np.repeat([2.0, 1.0], 30)
    for estimate in (proportion, mean):
        found = estimate(values, weights)
        assert found is not None and found.value == pytest.approx(np.average(values, weights=weights))
        assert (again := estimate(values, 10 * weights)) and (again.low, again.high) == pytest.approx(
            (found.low, found.high)
        )
        truth, hits = 0.3, 0
        for _ in range(1000):
            levels = np.concatenate([rng.beta(0.4, 1.6, 30), rng.beta(1, 1, 30)])
            one = estimate(levels, weights)
            assert one is not None
            hits += one.low <= truth <= one.high
        assert 925 <= hits <= 985
    assert resampled(values[None], weights).mean() == pytest.approx(np.average(values, weights=weights), abs=0.01)


# ---------------------------------------------------------------- one way


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer() -> None:
    rng = np.random.default_rng(2)
    found = made(rng, rng.random(12), samples=6)
    for k in (2, 3, 6):
        naive = [np.mean([any(c) for c in itertools.combinations(row, k)]) for row in found.correct]
        assert pass_at(k, found) == pytest.approx(naive)


def test_the_majority_is_of_answers_not_of_right_and_wrong() -> None:
    def vote(*answers: tuple[str | None, bool]) -> float:
        lines = [
            Answer("p", "free", i, "short", "correct" if right else "wrong", right, right, None, text, 5, -0.5)
            for i, (text, right) in enumerate(answers)
        ]
        return float(majority_at(len(answers), grid(lines, ["p"], len(answers)))[0])

    assert vote(("1/2", True), ("0.5", True), ("7", False), ("8", False), ("9", False)) == 1  # two forms of one answer
    assert vote(("7", False), (" 7 ", False), ("3", True)) == 0
    assert vote(("7", False), ("3", True)) == 0.5 and vote((None, False), (None, False), ("3", True)) == 1
    assert vote((None, False), (None, False)) == 0


def test_majority_of_fewer_samples_is_a_mean_over_draws() -> None:
    rng = np.random.default_rng(3)
    found = made(rng, np.full(40, 0.7), samples=5)
    assert majority_at(1, found) == pytest.approx(found.means(found.correct), abs=0.12)
    assert 0.7 < majority_at(5, found).mean() <= 1


def test_answers_without_a_verdict_are_left_out_and_counted() -> None:
    lines = [
        Answer("a", "free", 0, "think", "correct", True, True, 0.5, "1", 100, -0.1),
        Answer("a", "free", 1, "short", "timed_out", False, False, None, "1", 900, -0.1),
        Answer("b", "free", 0, "short", "cut_off", False, True, -1.0, None, 50, -0.1, ("length",)),
    ]
    found = scores(grid(lines, ["a", "b", "c"], 2), ks=(2,))
    assert found["problems"] == 2 and found["answers"] == 2 and found["unjudged"] == 4
    assert found["accuracy"].value == 0.5 and found["tokens"]["mean"].value == 75 and "pass@2" not in found
    assert found["by_mode"]["think"]["tokens"]["median"] == 100 and found["by_mode"]["short"]["accuracy"].value == 0
    assert found["leakage"].value == 1 and found["truncated"].value == 0.5
    nothing = scores(grid([], ["a"], 1))
    assert nothing["accuracy"] is None and nothing["tokens"] == {"mean": None, "median": None, "p95": None}


def test_a_level_weighs_as_much_in_quantiles_as_in_means() -> None:
    lines = [Answer(f"{i}", "think", 0, "think", "wrong", None, None, None, None, 10 * i, 0.0) for i in range(1, 11)]
    uids = [one.uid for one in lines]
    assert (
        scores(grid(lines, uids, 1))["tokens"]["median"] == 50 and scores(grid(lines, uids, 1))["tokens"]["p95"] == 100
    )
    rare = np.where(np.arange(10) < 5, 9.0, 1.0)
    found = scores(grid(lines, uids, 1, rare))["tokens"]
    assert found["median"] == 30 and found["mean"].value == pytest.approx(
        np.average(np.arange(10, 110, 10), weights=rare)
    )


# ---------------------------------------------------------------- routers, dial, comparison


def all_ways(easy: int, hard: int, knows: float, samples: int = 8, seed: int = 4) -> tuple[Grid, dict[str, Grid]]:
    """Short answers are right on easy problems, thinking is on all. P(think): knows on hard, 1 - knows on easy ones."""
    rng = np.random.default_rng(seed)
    is_hard = np.arange(easy + hard) >= easy
    p = np.where(is_hard, knows, 1 - knows)
    think = made(rng, np.full(easy + hard, 1.0), 100, samples=samples, way="think")
    short = made(rng, np.where(is_hard, 0.0, 1.0), 10, samples=samples, way="short")
    free = made(rng, p * 1.0 + (1 - p) * ~is_hard, p * 100 + (1 - p) * 10, p, samples)
    return free, {"think": think, "short": short}


def test_a_router_that_knows_beats_chance_and_one_that_does_not_equals_it() -> None:
    wise, blind = routing(*all_ways(60, 40, 0.99)), routing(*all_ways(60, 40, 0.5))
    assert wise is not None and blind is not None and wise.problems == 100 and not wise.upper_bound
    oracle, always, never = (wise.routers[name] for name in ("oracle", "think", "short"))
    assert oracle.accuracy.value == 1 and oracle.tokens.value == pytest.approx(0.6 * 10 + 0.4 * 100)
    assert always.accuracy.value == 1 and never.accuracy.value == pytest.approx(0.6)
    assert wise.routers["random"].accuracy_gain.low > 0.15
    assert wise.routers["think"].token_ratio.high < 0.6 and wise.routers["free"].token_ratio.value == 1
    chance = blind.routers["random"]
    assert chance.accuracy_gain.low < 0 < chance.accuracy_gain.high
    assert chance.accuracy.value == pytest.approx(0.8, abs=0.03)


def test_an_oracle_of_noise_is_no_better_than_its_modes_unless_it_has_one_sample() -> None:
    rng = np.random.default_rng(5)
    half = np.full(2000, 0.5)

    def oracle(samples: int) -> tuple[float, bool]:
        free, think, short = (made(rng, half, samples=samples, way=way) for way in ("free", "think", "short"))
        found = routing(free, {"think": think, "short": short})
        assert found is not None
        return found.routers["oracle"].accuracy.value, found.upper_bound

    value, bound = oracle(4)
    assert value == pytest.approx(0.5, abs=0.03) and not bound
    value, bound = oracle(1)
    assert value == pytest.approx(0.75, abs=0.03) and bound


def test_the_dial_goes_from_never_to_always_and_its_area_is_what_the_choice_knows() -> None:
    wise, blind = trace(*all_ways(60, 40, 0.9)), trace(*all_ways(60, 40, 0.5))
    assert wise is not None and blind is not None
    assert wise.think_rate[0] < 0.01 and wise.think_rate[-1] > 0.99 and (np.diff(wise.think_rate) > 0).all()
    assert wise.accuracy[0] == pytest.approx(0.6, abs=0.01) and wise.accuracy[-1] == pytest.approx(1, abs=0.01)
    assert (wise.accuracy_interval[:, 0] <= wise.accuracy + 1e-9).all()
    assert wise.area.low > 0.05 and abs(blind.area.value) < 1e-6
    at = wise.for_budget(46)
    assert at is not None and wise.tokens[at] <= 46 and wise.accuracy[at] > 0.85
    assert wise.tokens[wise.for_error(0.02)] < 60 < wise.tokens[wise.for_error(0.0)]
    assert wise.for_budget(5) is None


def test_the_dial_at_no_bias_is_the_free_choice() -> None:
    free, forced = all_ways(60, 40, 0.8, samples=32)
    found = trace(free, forced)
    assert found is not None
    middle = int(np.argmin(np.abs(found.bias)))
    assert found.think_rate[middle] == pytest.approx(free.means(free.thinks).mean(), abs=0.02)
    assert found.accuracy[middle] == pytest.approx(free.means(free.correct).mean(), abs=0.02)


def test_a_bias_acts_before_the_temperature() -> None:
    """So at half the temperature half of it does the same."""
    ways = all_ways(60, 40, 0.8)
    full, half = trace(*ways), trace(*ways, temperature=0.5)
    assert full is not None and half is not None
    np.testing.assert_allclose(half.bias, full.bias / 2)
    np.testing.assert_array_equal(half.accuracy, full.accuracy)


def one_mode(logprob: float, whole: bool) -> tuple[Grid, dict[str, Grid]]:
    """A model that always thinks, with that log-prob."""
    uids = [f"p/{i}" for i in range(20)]

    def answers(way: str) -> Iterator[Answer]:
        mode = "short" if way == "short" else "think"
        for uid in uids:
            chosen = logprob if way == "free" else 0.0
            yield Answer(uid, way, 0, mode, "correct", True, True, 1.0, "1", 10, chosen)

    free, think, short = (grid(answers(way), uids, 1, whole=whole) for way in ("free", "think", "short"))
    return free, {"think": think, "short": short}


def test_a_mode_that_is_certain_is_on_the_curve_at_a_bound_and_where_top_p_cut_not_at_all() -> None:
    """A log-prob of 0 is a probability of 1 to float32's last bit, or what nucleus sampling left of two modes."""
    sure = trace(*one_mode(0.0, whole=True))
    assert sure is not None and sure.certain == sure.problems == 20
    middle = int(np.argmin(np.abs(sure.bias)))
    assert sure.think_rate[middle] == pytest.approx(1, abs=1e-6) and sure.bias[0] < -20 and sure.think_rate[0] < 0.01
    assert trace(*one_mode(0.0, whole=False)) is None
    cut = trace(*one_mode(-0.01, whole=False))
    assert cut is not None and cut.certain == 0


def test_calibration_is_perfect_where_p_think_is_the_gain() -> None:
    rng = np.random.default_rng(6)
    gain = rng.random(3000)
    free = made(rng, gain, p_think=np.clip(gain, 0.01, 0.99), samples=2)
    think, short = made(rng, gain, samples=8, way="think"), made(rng, 0 * gain, samples=8, way="short")
    good = calibration(free, {"think": think, "short": short})
    bad = calibration(
        made(rng, gain, p_think=1 - np.clip(gain, 0.01, 0.99), samples=2), {"think": think, "short": short}
    )
    assert good is not None and bad is not None
    assert good.ece < 0.03 and good.correlation > 0.8 and len(good.bins) == 10
    assert bad.ece > 0.4 and bad.correlation < -0.8


@pytest.fixture(params=[2, 3, 4])
def several(request: pytest.FixtureRequest) -> tuple[Grid, dict[str, Grid], np.ndarray, np.ndarray]:
    """(free, forced, P(mode) f[P, M], chance to be right f[P, M]) of as many modes; mode m takes 10 (m + 1) tokens."""
    modes = modes_of(["short", *(f"m{place}" for place in range(request.param - 2)), "think"])
    rng, uids, samples = np.random.default_rng(request.param), [f"p{i}" for i in range(200)], 64
    chance = rng.dirichlet(np.ones(len(modes)), len(uids))
    right = np.sort(rng.random((len(uids), len(modes))), axis=1)

    def drawn(way: str, forced: int | None) -> Grid:
        answers = []
        for place, uid in enumerate(uids):
            taken = rng.choice(len(modes), samples, p=chance[place]) if forced is None else [forced] * samples
            answers += [
                Answer(
                    uid, way, sample, modes[mode].name, "correct" if rng.random() < right[place, mode] else "wrong",
                    None, None, None, "x", 10 * (mode + 1),
                    float(np.log(chance[place, mode])) if forced is None else 0.0,
                )
                for sample, mode in enumerate(taken)
            ]  # fmt: skip
        return grid(answers, uids, samples, modes=modes)

    forced = {mode.name: drawn(mode.name, place) for place, mode in enumerate(modes)}
    return drawn("free", None), forced, chance, right


Several = tuple[Grid, dict[str, Grid], np.ndarray, np.ndarray]


def test_chances_are_those_of_the_sampler_for_any_number_of_modes(several: Several) -> None:
    free, _, chance, _ = several
    assert free.chances() == pytest.approx(chance, abs=0.04)  # modes that were never sampled share the rest
    assert np.sort(np.abs(free.chances() - chance).max(axis=1))[:100] == pytest.approx(0, abs=1e-6)
    raised = free.chances(np.array([-80.0, 80.0]))
    assert raised[0, :, 0] == pytest.approx(1) and raised[1, :, -1] == pytest.approx(1)


def test_every_mode_is_a_router_and_chance_takes_them_as_often(several: Several) -> None:
    free, forced, chance, right = several
    found = routing(free, forced)
    assert found is not None and [*found.routers] == ["free", *reversed([*forced]), "random", "oracle"]
    for place, name in enumerate(forced):
        assert found.routers[name].tokens.value == 10 * (place + 1)
        assert found.routers[name].accuracy.value == pytest.approx(right[:, place].mean(), abs=0.02)
    share = chance.mean(axis=0)
    assert found.routers["random"].accuracy.value == pytest.approx(right.mean(axis=0) @ share, abs=0.02)
    assert found.routers["random"].tokens.value == pytest.approx(free.means(free.tokens).mean(), abs=1e-6)
    assert max(found.routers[name].accuracy.value for name in forced) <= found.routers["oracle"].accuracy.value + 0.02


def test_the_dial_leads_from_short_through_all_modes_to_think(several: Several) -> None:
    """At no bias it is the free choice, and tokens rise with the bias."""
    free, forced, chance, right = several
    found = trace(free, forced)
    assert found is not None
    middle, count = int(np.argmin(np.abs(found.bias))), len(forced)
    assert found.accuracy[middle] == pytest.approx((chance * right).sum(axis=1).mean(), abs=0.02)
    assert (np.diff(found.tokens) > 0).all()
    assert (found.tokens[0], found.tokens[-1]) == pytest.approx((10, 10 * count), abs=0.05)
    ends = right[:, 0].mean(), right[:, -1].mean()
    assert (found.accuracy[0], found.accuracy[-1]) == pytest.approx(ends, abs=0.02)


def test_scores_are_by_every_mode(several: Several) -> None:
    free, forced, chance, _ = several
    found = scores(free, ())
    assert [*found["by_mode"]] == [*reversed([*forced])]
    assert sum(cell["answers"] for cell in found["by_mode"].values()) == found["answers"]
    assert found["think_rate"].value == pytest.approx(1 - chance[:, 0].mean(), abs=0.02) and found["no_mode"].value == 0
    assert [scores(forced[name], ())["think_rate"].value for name in forced] == [0.0] + [1.0] * (len(forced) - 1)


def test_models_are_compared_problem_by_problem() -> None:
    rng = np.random.default_rng(7)
    hard = rng.beta(0.3, 0.7, 300)
    grids = {name: made(rng, np.clip(hard + more, 0, 1), samples=4) for name, more in (("a", 0), ("b", 0), ("c", 0.1))}
    same, better = differences(grids)
    assert (same.base, same.model, same.problems) == ("a", "b", 300)
    assert same.accuracy.low < 0 < same.accuracy.high and same.token_ratio.value == 1
    assert better.accuracy.low > 0 and better.better > 0.99
    alone = proportion(grids["c"].means(grids["c"].correct))
    assert alone is not None  # what pairs of problems are for: a difference is known better than either accuracy
    assert better.accuracy.high - better.accuracy.low < alone.high - alone.low
