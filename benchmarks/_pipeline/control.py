"""The control plane alone: how fast trajectories go through prompts, spreading, gathering, grouping, rewards,
advantages and packing, in the driver, on one core. Answers are instant: a scripted sampler gives every sibling 46
tokens, and a scripted judge a verdict. Every other part is the one that training uses.

    control_plane_per_s              trajectories/s at 4,096 a step; goal 20,000
    control_plane_growth_time        microseconds per trajectory at 262,144 a step over those at 1,024; goal 1.25
    control_plane_growth_memory      bytes of the driver per trajectory, the same; goal 1.25
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from typing import Any

import numpy as np

from benchmarks._answers import Ready
from benchmarks._figures import figure, say
from conf.schema import AlgorithmConf, ArithmeticConf, DataConf, RewardConf
from learner.data.pack import pack
from learner.objective import optimizer_steps
from orchestrator.training.work import fewer_collections
from reward.grader import Grader
from reward.verdict import Outcome, RewardResult, Verdict
from rollout.data.stream import PromptStream
from rollout.mode import Mode
from rollout.request import RolloutRequest, RolloutResult, SamplingParams
from rollout.sampler import Sampler

GROUP, TOKENS, MAX_TOKENS = 8, 46, 8192
STEPS = (1024, 4096, 16384, 65536, 262144)  # trajectories a step


class ScriptedWorker:
    """Answers every share at once: 46 tokens each, half of them short."""

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Ready:
        share: RolloutRequest = args[0]
        n = len(share.siblings)
        total = n * TOKENS
        modes = tuple((Mode.THINK, Mode.SHORT)[i % 2] for i in range(n))
        ids = np.full(total, 40, np.int32)
        ids[::TOKENS] = [4 if mode.thinks else 6 for mode in modes]
        return Ready(
            RolloutResult(
                np.full(n, TOKENS, np.int32),
                ids,
                np.full(total, -0.5, np.float32),
                np.zeros(total, np.int32),
                modes,
                np.zeros(n, np.uint8),
                False,
                total,
                0.0,
                0.0,
            )
        )


class ScriptedJudge:
    """Thinking is right; a verdict is a constant."""

    right = Verdict(Outcome.CORRECT, "1", 0.0)
    wrong = Verdict(Outcome.WRONG, "2", 0.0)

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Ready:
        sampled, prompts, first = args
        modes = sampled.wait().modes[first : first + len(prompts)]
        return Ready(RewardResult([self.right if mode == Mode.THINK else self.wrong for mode in modes], 0.0))


def step(trajectories: int, stream: PromptStream, sampler: Sampler, grader: Grader, number: int) -> int:
    """One step without a learner; returns the number of micro-batches."""
    batch = sampler.sample(stream.take(trajectories // GROUP), GROUP, number)
    groups = grader.score(grader.ask(batch))
    steps = optimizer_steps(groups, AlgorithmConf(), TOKENS)
    packed = [pack(sequences, totals, MAX_TOKENS, 1) for sequences, totals in steps]
    return sum(len(rank) for one in packed for rank in one.ranks)


def measure(small: bool) -> None:
    fewer_collections()
    ids = np.arange(40, 60, dtype=np.int32)
    times: dict[int, float] = {}
    memory: dict[int, float] = {}
    sizes = STEPS[:2] if small else STEPS
    for trajectories in sizes:
        stream = PromptStream(None, lambda text: ids, DataConf(arithmetic=ArithmeticConf()), 0)
        sampler = Sampler([ScriptedWorker(), ScriptedWorker()], SamplingParams(1.0, 1.0, 128))
        grader = Grader([ScriptedJudge(), ScriptedJudge()], RewardConf())
        rounds = 1 if small else max(3, 16384 // trajectories)
        seconds = []
        for number in range(rounds + 1):
            gc.collect()
            begin = time.perf_counter()
            step(trajectories, stream, sampler, grader, number)
            seconds.append(time.perf_counter() - begin)
        times[trajectories] = statistics.median(seconds[1:]) / trajectories
        tracemalloc.start()
        step(trajectories, stream, sampler, grader, rounds + 1)
        memory[trajectories] = tracemalloc.get_traced_memory()[1] / trajectories
        tracemalloc.stop()
        say(
            f"{trajectories:,} trajectories a step: {1e6 * times[trajectories]:.1f} us and "
            f"{memory[trajectories]:,.0f} bytes each, {1 / times[trajectories]:,.0f}/s"
        )
    figure("control_plane_per_s", 1 / times[4096], "trajectories/s", 20000)
    figure("control_plane_growth_time", times[sizes[-1]] / times[sizes[0]], "ratio", 1.25)
    figure("control_plane_growth_memory", memory[sizes[-1]] / memory[sizes[0]], "ratio", 1.25)
