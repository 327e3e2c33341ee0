"""Rollout through the Ray actor against a bare vLLM engine, and what pushes among running sequences cost.

Both sample the same requests (the samples must be equal token by token) with the same settings, thread count and
niceness (Ray lowers its workers' priority), side by side on a core each, which they swap every round, so that what else
the machine does falls on both. The actor's time is what the driver waits for: prompts out, sampling, trajectories back.
Lengths are very ragged: the end comes with a constant small chance, so they are spread like a geometric distribution,
up to a cap of 512.

    rollout_vs_vllm               the lower of the next two; goal 0.97
    rollout_vs_vllm_<requests>    tokens/s of the actor over that of vllm.LLM.generate, of all rounds together
    rollout_tokens_per_s_<...>    of the actor
    in_flight_loss                share of tokens/s that an engine with 256 running sequences loses when it takes new
                                  weights every 20 steps (keep), median over rounds; goal 0.06
    in_flight_loss_recompute      the same when keys and values are computed anew
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `rollout` is the room, not this file
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks._bare_vllm import Asked, Bare
from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._random_models import ragged_model
from conf.schema import ClusterConf, Device, ModelConf, RolloutConf
from rollout.prompt import Prompt
from rollout.request import SamplingParams, derive_seed

ROOT = Path(sys.path[0])
GROUP, SEED = 8, 0
LONGEST, SHRINK = 512, 8  # response tokens; in the small form, of these and of what runs side by side


def make_prompts(requests: int, turn: int) -> list[Prompt]:
    """Fresh prompts of 20 to 27 tokens for each turn, as a training step has."""
    rng = np.random.default_rng([requests, turn])
    return [
        Prompt(f"bench/{requests}/{turn}/{i}", "", rng.integers(40, 130, 20 + i % 8).astype(np.int32), "1", "bench")
        for i in range(requests // GROUP)
    ]


def requests_of(requests: int, turn: int, longest: int) -> list[Asked]:
    """The same, as bare vLLM is given them."""
    return [
        (p.token_ids.tolist(), longest, derive_seed(SEED, p.uid, sibling, turn))
        for p in make_prompts(requests, turn)
        for sibling in range(GROUP)
    ]


def bare_side(bare: Bare, longest: int) -> Callable[[int, int], tuple[list[int], float]]:
    def call(requests: int, turn: int) -> tuple[list[int], float]:
        answers, seconds = bare(requests_of(requests, turn, longest))
        return [token for ids in answers for token in ids], seconds

    return call


def through_actor(sampler: Any) -> Callable[[int, int], tuple[list[int], float]]:
    def call(requests: int, turn: int) -> tuple[list[int], float]:
        prompts = make_prompts(requests, turn)
        begin = time.perf_counter()
        pending = sampler.sample(prompts, GROUP, turn)
        trajectories = pending.wait()
        seconds = time.perf_counter() - begin
        say(f"asking and answering took {1000 * (seconds - pending.stats.seconds):.0f} ms besides sampling")
        return [int(token) for t in trajectories for token in t.token_ids], seconds

    return call


def compare(
    requests: int, rounds: int, actor: Callable[..., Any], bare: Callable[..., Any], pids: tuple[int, int]
) -> tuple[float, float]:
    """(ratio of the tokens/s of all rounds, those of the actor). Both sides work at the same time, a core each, so that
    what else the machine does falls on both; they swap cores every round. The first round is warm-up."""
    tokens, actor_s, bare_s = 0, 0.0, 0.0
    with ThreadPoolExecutor(2) as pool:
        for turn in range(2 * rounds + 1):
            for pid, core in zip(pids, (turn % 2, 1 - turn % 2)):
                pin(pid, core)
            (ids, mine), (others, theirs) = pool.map(lambda side: side(requests, turn), (actor, bare))  # noqa: B023
            if ids != others:
                raise SystemExit("the two sides sampled different tokens: they do not do the same work")
            if not turn:
                say(f"lengths of {requests} requests: {spread(ids, requests, turn)}")
            speed, other = len(ids) / mine, len(ids) / theirs
            say(f"{requests} requests, round {turn}: {len(ids)} tokens, actor {speed:,.0f}/s, bare vLLM {other:,.0f}/s")
            if turn:
                tokens, actor_s, bare_s = tokens + len(ids), actor_s + mine, bare_s + theirs
    return bare_s / actor_s, tokens / actor_s


def pin(pid: int, core: int) -> None:
    """All threads of a process to one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cores[core]})


def in_flight(model: str, threads: int, rounds: int, shrink: int) -> None:
    """In its own process: one engine with 256 sequences under way, with and without a push every 20 of 200 steps.
    shrink: of the sequences and the steps."""
    from learner.model.policy import load_policy
    from rollout.engine import Engine, Request
    from rollout.weight_sync.weights import views

    many, steps_each = 256 // shrink, 200 // shrink
    conf = RolloutConf(threads=threads, max_num_seqs=many)
    engine = Engine(conf, ModelConf(), model, ends=[1])
    policy = load_policy(model, "float32")
    named = [(policy.public_name(name), p.data) for name, p in policy.named_parameters()]
    weights = views(named, 1, {"lm_head.weight": "model.embed_tokens.weight"}).copy()

    def tokens_per_s(turn: int, push: str) -> float:
        rng, keys = np.random.default_rng(turn), itertools.count(10000 * turn)

        def fill() -> None:  # as sequences end, others begin: as many run all the time
            while engine.unfinished < many:
                key = next(keys)
                engine.add(key, Request([2, *rng.integers(40, 130, 20).tolist(), 3], 200, 1.0, 1.0, key))

        begin = time.perf_counter()
        for steps in range(1, steps_each + 1):
            fill()
            engine.step()
            if push and steps % 20 == 0:
                engine.load(weights, recompute=push == "recompute")
        seconds = time.perf_counter() - begin
        engine.abort(list(engine._requests))
        return many * steps_each / seconds

    lost: dict[str, list[float]] = {"keep": [], "recompute": []}
    for turn in range(rounds + 1):
        order = ["", "keep", "recompute"]
        speeds = {push: tokens_per_s(turn, push) for push in (order if turn % 2 else reversed(order))}
        say(f"{many} sequences, tokens/s: " + ", ".join(f"{push or 'no push'} {v:,.0f}" for push, v in speeds.items()))
        if turn:
            for push, losses in lost.items():
                losses.append(1 - speeds[push] / speeds[""])
    figure("in_flight_loss", statistics.median(lost["keep"]), "share of tokens/s", 0.06)
    figure("in_flight_loss_recompute", statistics.median(lost["recompute"]), "share of tokens/s")
    engine.close()


def spread(ids: list[int], requests: int, turn: int) -> str:
    """Percentiles of the answers' lengths, from where their ends are."""
    ends = np.flatnonzero(np.array(ids) == 1) + 1
    lengths = np.diff(np.concatenate([[0], ends]))
    p = {q: int(np.percentile(lengths, q)) for q in (1, 50, 90, 99)}
    return f"median {p[50]}, 1st percentile {p[1]}, 90th {p[90]}, 99th {p[99]} (cut-off ones count into the next)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[64, 1024], help="requests at one time (64 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="counted pairs of rounds for each number of requests (5)")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of each engine (1)")
    parser.add_argument("--longest", type=int, default=LONGEST, help=f"response tokens ({LONGEST})")
    add_small(parser)
    parser.add_argument("--in-flight", metavar="MODEL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
        arguments.rounds, arguments.longest = 1, LONGEST // SHRINK
    if arguments.in_flight:
        in_flight(arguments.in_flight, arguments.threads, arguments.rounds, SHRINK if arguments.small else 1)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    os.chdir(ROOT)  # Ray gives its workers the driver's folder to import from
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder:
        model = ragged_model(Path(folder))
        bare = Bare(model, arguments.threads)
        try:
            run(model, bare, arguments)
        finally:
            bare.close()
        command = [sys.executable, __file__, "--in-flight", model, "--threads", str(arguments.threads)]
        command += ["--rounds", str(arguments.rounds), *(["--small"] if arguments.small else [])]
        subprocess.run(command, check=True)


def run(model: str, bare: Bare, arguments: argparse.Namespace) -> None:
    from orchestrator.cluster.cluster import Cluster, started
    from rollout.mode import ControlTokens
    from rollout.sampler import Sampler
    from rollout.worker import RolloutWorker

    rollout = RolloutConf(threads=arguments.threads, device=Device.cpu)
    control = ControlTokens(think=4, short=6, think_end=5, eos=1)
    with Cluster(ClusterConf()) as cluster:
        workers = cluster.rollout_workers(rollout, RolloutWorker, [rollout, ModelConf(), model, control, SEED])
        started(workers, "ready", rollout.start_timeout_s)
        sampler = Sampler(workers, SamplingParams(temperature=1.0, top_p=1.0, max_response_tokens=arguments.longest))
        pid = workers[0].call("__ray_call__", lambda _: os.getpid()).wait()
        ratios, other = [], bare_side(bare, arguments.longest)
        for requests in arguments.requests:
            asked, pids = requests // (SHRINK if arguments.small else 1), (pid, bare.process.pid)
            ratio, speed = compare(asked, arguments.rounds, through_actor(sampler), other, pids)
            ratios.append(ratio)
            figure(f"rollout_vs_vllm_{requests}", ratio, "ratio of tokens/s", 0.97)
            figure(f"rollout_tokens_per_s_{requests}", speed, "tokens/s")
        figure("rollout_vs_vllm", min(ratios), "ratio of tokens/s", 0.97)


if __name__ == "__main__":
    main()
