"""Every benchmark still runs and prints what docs/results.md names; the pure parts of benchmarks/trl.py: known lengths,
the pinned environment's list, the arithmetic of its ratio."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._trl import chain as chains
from benchmarks._trl.environment import LOCK, Failed, trl_packages
from benchmarks._trl.side import reward
from tests.helpers.scripts import script

ROOT = Path(__file__).parents[1]
UNLISTED = {  # the tables name them in words
    "quickstart": {"quickstart_minutes"},
    "simulation": {"simulation_error", "default_vs_former"},
}
# options by which the small forms share short runs
SHARING = {
    "quickstart": "--keep",
    **dict.fromkeys(("harness", "mismatch", "pipeline", "plan", "simulation", "tracking", "trl"), "--runs"),
}
# run by `make test-all`, not by `make test`
LONG = (
    "chaos",
    "checkpoint",
    "cli",
    "damage",
    "distill",
    "evaluation",
    "fuzz",
    "harness",
    "jobs",
    "learner",
    "long_task",
    "mismatch",
    "pipeline",
    "supervision",
    "learner_restart",
    "plan",
    "quickstart",
    "simulation",
    "tracking",
    "trl",
    "verifier",
    "warmup",
)
LM_EVAL = ROOT / ".bench" / "harness" / "made"
SCRIPTS = sorted((path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")), key=lambda name: name != "quickstart")


@pytest.fixture(scope="module")
def trl() -> Any:
    return script("benchmarks/trl.py")


# ---------------------------------------------------------------- all of them


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first small form that needs a short run leaves it for the others."""
    return tmp_path_factory.mktemp("runs")


def called(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{' '.join(done.args)}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def documented(script: str) -> set[str]:
    """The figures in the first column of the tables in docs/results.md that stand under the script's name."""
    sections = re.split(r"^## ", (ROOT / "docs" / "results.md").read_text(), flags=re.M)
    mine = [text for text in sections if f"benchmarks/{script}.py" in text.splitlines()[0]]
    cells = [line.split("|")[1] for text in mine for line in text.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"(?<![\w.])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w=.])", cell)}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(name, marks=[pytest.mark.bench] if name in LONG else [])
        for name in SCRIPTS
        if name != "gpu"  # tests/test_gpu_benchmark.py
    ],
)
def test_small_forms_print_every_documented_figure(script: str, runs: Path) -> None:
    if script == "harness" and not LM_EVAL.is_file():
        pytest.skip("lm-eval is not in .bench/harness: python benchmarks/harness.py installs it")
    options = [SHARING[script], str(runs)] if script in SHARING else []
    lines = [json.loads(line) for line in called(script, "--small", *options).stdout.splitlines()]
    printed = {line["figure"] for line in lines}
    assert printed and all(line["goal"] is None for line in lines)
    assert {type(line["value"]) for line in lines} <= {float, type(None)} and all(line["unit"] for line in lines)
    if script == "quickstart":
        shares = [line["value"] for line in lines if line["figure"].startswith("quickstart_share_")]
        assert len(shares) == 6 and min(shares) >= 0 and sum(shares) == pytest.approx(1, abs=1e-3)
    left_out = {name for name in documented(script) if "_vs_trl" in name} if trl_packages() is None else set()
    assert (documented(script) | UNLISTED.get(script, set())) - left_out <= printed


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_has_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        script(f"benchmarks/{name}.py").main()
    assert ended.value.code == 0 and "--small" in capsys.readouterr().out


def test_documented_figures_are_found() -> None:
    assert {"update_vs_torch", "pack_fill"} <= documented("learner")
    assert {"rollout_vs_vllm_64", "in_flight_loss"} <= documented("pipeline")
    assert {"e2e_vs_trl_ragged"} <= documented("trl")


# ---------------------------------------------------------------- against TRL


def quantile(lengths: np.ndarray, share: float) -> int:
    return int(np.searchsorted(lengths.cumsum(), share))


def test_log_normal_chains_have_log_normal_lengths() -> None:
    """Quantiles of the chain against those of the law it stands for: exp(log 30 + sigma z), 99 % below 400."""
    lengths = chains.log_normal(30, 400).lengths(8000)
    sigma = math.log(400 / 30) / 2.3263
    assert lengths.sum() == pytest.approx(1, abs=1e-6)
    for share, z in ((0.05, -1.6449), (0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745), (0.95, 1.6449), (0.99, 2.3263)):
        wanted = 30 * math.exp(sigma * z)
        assert abs(quantile(lengths, share) - wanted) < 1 + 0.15 * wanted, share


def test_mild_chains_have_their_mean_and_deviation() -> None:
    lengths = chains.mild(46).lengths(1000)
    at = np.arange(1001)
    mean = (lengths * at).sum()
    assert mean == pytest.approx(46, rel=1e-6)
    assert 10 < math.sqrt((lengths * (at - mean) ** 2).sum()) < 14


@pytest.mark.parametrize("chain", [chains.log_normal(30, 400), chains.mild(46), chains.endless()])
def test_sampled_walks_have_the_chains_lengths(chain: chains.Chain) -> None:
    """Lengths of sampled walks against `lengths`, which does not look at the tokens' laws; an endless chain never
    ends."""
    law = chain.next_probabilities(264)
    assert np.allclose(law.sum(1)[law.sum(1) > 0], 1)
    walks = chains.walks(law, 400, 1200, np.random.default_rng(0))
    if not chain.ends:
        assert not (walks == chains.END).any()
        return
    found = []
    for row in walks:
        ends = np.flatnonzero(row == chains.END)
        found += np.diff(ends[ends < 700]).tolist()[:4]  # a walk's tokens, and the beginning that is not one
    mean = (np.minimum(np.arange(3001), 600) * chain.lengths(3000)).sum()
    assert np.mean(np.minimum(np.array(found) - 1, 600)) == pytest.approx(mean, rel=0.15)


def test_an_impossible_length_law_is_rejected() -> None:
    with pytest.raises(ValueError, match="p99 must be above"):
        chains.log_normal(30, 60)


def test_prompts_are_distinct_and_of_equal_length() -> None:
    prompts = chains.make_prompts(500, 16, seed=0)
    assert len(set(prompts)) == 500 and {len(text) for text in prompts} == {14}
    assert prompts == chains.make_prompts(500, 16, seed=0)


def test_the_ratio_is_the_median_of_rounds_and_the_sides_alternate(trl: Any) -> None:
    order: list[str] = []
    theirs, ours = iter([2.0, 4.0, 2.0]), iter([1.0, 1.0, 4.0])

    def side(name: str, seconds: Any) -> Any:
        order.append(name)
        return trl.Turn(1, next(seconds), {"mean": 46.0})

    ratio, mine, other = trl.compare(lambda: side("trl", theirs), lambda: side("ours", ours), 3)
    assert (ratio, mine, other) == (2.0, 256.0, 128.0)  # ratios 2, 4, 0.5
    assert order == ["trl", "ours", "ours", "trl", "trl", "ours"]


def test_unequal_work_is_rejected(trl: Any) -> None:
    with pytest.raises(Failed, match="do not do the same work"):
        trl.compare(lambda: trl.Turn(1, 1.0, {"mean": 46.0}), lambda: trl.Turn(1, 1.0, {"mean": 30.0}), 1)


def test_only_steady_steps_are_counted(trl: Any) -> None:
    """Two warm-up steps and the last one, in which nothing is sampled, are left out."""
    tokens = {f"tokens/{name}": 46.0 for name in ("mean", "p50", "p95", "max")}
    times = [10.0, 15.0, 16.0, 17.0, 18.0, 18.1]
    turn = trl.steady([{"time": time, **tokens} for time in times], 2)
    assert (turn.steps, turn.seconds) == (3, 3.0)
    assert turn.speed == 256.0


def test_trls_lock_has_the_projects_versions() -> None:
    """Both sides run the same torch and transformers; TRL itself is the only package that the project does not pin."""

    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", path.read_text(), re.MULTILINE))

    theirs, ours = pins(LOCK), pins(ROOT / "requirements-cpu.lock")
    assert theirs.pop("trl").startswith("1.16.")
    assert {"torch", "transformers", "accelerate", "datasets"} <= theirs.keys()
    assert {name: version for name, version in theirs.items() if ours.get(name) != version} == {}


def test_reward_differs_within_a_group() -> None:
    assert reward("", "ABcd", "1", None) == 0.5
    assert reward("", "", "1", None) == 0.0
