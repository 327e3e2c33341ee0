"""`thinkless evaluate` against bare vLLM on the same requests: what grading, the journal and Ray cost an evaluation.

Both sample the same answers (checked by the length of each), in all three ways, with the same engine settings; bare
vLLM is given all of them in one call. They take turns, so that neither is in the other's way: grading has the core that
the engine leaves. Ours is timed from the first request to the last answer graded twice (strictly, leniently) and in the
journal on the disk; starting is left out of both.

    evaluate_vs_vllm        tokens/s of the evaluation over those of vllm.LLM.generate, all rounds together; goal 0.95
    evaluate_tokens_per_s   of the evaluation
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._bare_vllm import Asked, Bare
from benchmarks._figures import figure, say
from benchmarks._random_models import ragged_model
from conf.schema import Config, EvaluateConf, RewardConf, RolloutConf
from orchestrator.base.journal import Journal
from orchestrator.cluster.cluster import Cluster, started
from orchestrator.cluster.parts import make_grader, make_sampler
from orchestrator.evaluation.answers import Answer, ways_of
from orchestrator.evaluation.collect import Collector
from orchestrator.training.evaluation import forced_modes
from rollout.data.tokens import load_tokenizer
from rollout.mode import MODES, ControlTokens
from rollout.prompt import Prompt
from rollout.request import SamplingParams, derive_seed

CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)
PROBLEMS, SAMPLES, LONGEST, ROUNDS = 64, 4, 512, 3
SHRINK = 8  # of problems and tokens, in the small form


def asked(prompts: list[Prompt], conf: Config) -> list[Asked]:
    """As the evaluation asks for them, way by way."""
    longest, seed = conf.evaluate.max_response_tokens or 0, conf.evaluate.seed
    found = []
    for mode in forced_modes(MODES).values():
        forced = [] if mode is None else [CONTROL.id_of(mode)]
        found += [
            ([*p.token_ids.tolist(), *forced], longest - len(forced), derive_seed(conf.run.seed, p.uid, sample, seed))
            for p in prompts
            for sample in range(SAMPLES)
        ]
    return found


def make_prompts(count: int, turn: int) -> list[Prompt]:
    """Fresh ones for each round; the gold answer is a number."""
    rng = np.random.default_rng(turn)
    return [
        Prompt(f"{turn}/{i}", "?", rng.integers(40, 130, 20 + i % 8).astype(np.int32), str(i), "bench", None)
        for i in range(count)
    ]


def evaluated(collector: Collector, prompts: list[Prompt], path: Path) -> tuple[dict[Any, Answer], float]:
    begin = time.perf_counter()
    journal = Journal(path, lambda line, place: Answer.of(dict(line)), by="way")
    collector.collect(prompts, journal, lambda count: None)
    journal.close()
    return journal.kept, time.perf_counter() - begin


def throughput(small: bool) -> None:
    problems, longest = (PROBLEMS, LONGEST) if not small else (PROBLEMS // SHRINK, LONGEST // SHRINK)
    rounds = 1 if small else ROUNDS
    conf = Config(
        rollout=RolloutConf(workers=1),
        reward=RewardConf(processes=1),
        evaluate=EvaluateConf(samples=SAMPLES, max_response_tokens=longest),
    )
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        model = ragged_model(Path(scratch) / "model")
        bare = Bare(model, conf.rollout.threads)
        try:
            with Cluster(conf.cluster) as cluster:
                _compare(cluster, conf, model, bare, problems, rounds, Path(scratch))
        finally:
            bare.close()


def _compare(cluster: Cluster, conf: Config, model: str, bare: Bare, problems: int, rounds: int, scratch: Path) -> None:
    sampler = make_sampler(cluster, conf, model, CONTROL, SamplingParams(1.0, 1.0, LONGEST))
    graders = {
        name: make_grader(cluster, replace(conf, reward=replace(conf.reward, strict=name == "strict")), model, CONTROL)
        for name in ("strict", "lenient")
    }
    started([*sampler.workers, *(actor for one in graders.values() for actor in one.actors)], "ready", 600)
    tokenizer = load_tokenizer(model, conf.model)
    tokens, mine, its = 0, 0.0, 0.0
    for turn in range(rounds + 1):  # the first is warm-up
        conf.evaluate.seed = turn
        collector, prompts = Collector(conf, sampler, graders, tokenizer, CONTROL), make_prompts(problems, turn)
        requests = asked(prompts, conf)
        sides: dict[str, Any] = {}
        for side in ("ours", "bare")[:: 1 if turn % 2 else -1]:
            if side == "ours":
                sides[side] = evaluated(collector, prompts, scratch / f"{turn}.jsonl")
            else:
                sides[side] = bare(requests)
        (answers, seconds), (ids, other) = sides["ours"], sides["bare"]
        keys = [(p.uid, way, sample) for way in ways_of(MODES) for p in prompts for sample in range(SAMPLES)]
        lengths = [answers[key].tokens - (key[1] != "free") for key in keys]
        if lengths != [len(one) for one in ids]:
            raise SystemExit("the two sides sampled different answers: they do not do the same work")
        total = sum(lengths)
        say(
            f"round {turn}: {len(keys)} answers, {total} tokens: evaluation {total / seconds:,.0f}/s, "
            f"bare {total / other:,.0f}/s"
        )
        if turn:
            tokens, mine, its = tokens + total, mine + seconds, its + other
    figure("evaluate_vs_vllm", its / mine, "ratio of tokens/s", 0.95)
    figure("evaluate_tokens_per_s", tokens / mine, "tokens/s")
