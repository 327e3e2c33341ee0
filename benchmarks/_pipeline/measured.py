"""What the simulation needs from this machine: an engine's step time, how long answers are, and parts of real runs.

In: the folder of a finished `thinkless train` run. Out: `EngineCosts` and a `Library` of answers (from one engine in
this process, the worker's own loop around it), mean seconds of the run's parts. Must not know: the discrete-event
model's insides.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.costs import Batch, EngineCosts
from orchestrator.tracking.chrome_trace import read
from orchestrator.tracking.utilization import Actor, by_kind

SIBLINGS, PROMPTS, ROUNDS = 32, 24, 4  # of the library: 96 prompts, 768 sequences asked for at a time
FEW = (1, 2, 4, 8, 12, 16) * 3  # sequences asked for at a time, for the step time of a batch's last ones
BENDS = (4, 16, 32, 96, 176)  # numbers of running sequences at which the step time's slope may change


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """Answers of one policy. N prompts, S siblings each."""

    kinds: np.ndarray  # i[N]
    prompts: np.ndarray  # i[N], tokens
    lengths: np.ndarray  # i[N, S], uncapped
    rewards: np.ndarray  # f[N, S]

    def batches(self, prompts: int, group_size: int, cap: int, cut_off: float, seed: int) -> Iterator[Batch]:
        """Endless: every prompt comes once before any comes twice, with siblings drawn from its own."""
        rng = np.random.default_rng(seed)
        order: list[int] = []
        while True:
            while len(order) < prompts:
                order += rng.permutation(len(self.kinds)).tolist()
            rows, order = np.array(order[:prompts]), order[prompts:]
            drawn = np.array([rng.permutation(self.lengths.shape[1])[:group_size] for _ in rows])
            lengths, rewards = self.lengths[rows[:, None], drawn], self.rewards[rows[:, None], drawn]
            rewards = np.where(lengths > cap, cut_off, rewards)
            learnt = rewards.max(1) > rewards.min(1)
            yield Batch(self.kinds[rows], self.prompts[rows], np.minimum(lengths, cap), learnt)


def sample(folder: Path, small: bool) -> dict[str, Any]:
    """One engine of the run in this process: {"turns": [(running, begun, ended, seconds)], "library": columns}.

    small: few answers, with rewards that differ though none is right.
    """
    from conf.compose import from_file
    from reward.group import group_trajectories
    from reward.worker import RewardWorker
    from rollout.data.stream import PromptStream
    from rollout.data.tokens import control_tokens, generation_prompt, load_tokenizer
    from rollout.engine import Engine, Request, Sample
    from rollout.request import RolloutRequest, SamplingParams
    from rollout.worker import RolloutWorker

    turns: list[tuple[int, int, int, float]] = []

    class Timed(Engine):
        """Notes every turn of the worker's loop: from the end of the last step to the end of this one."""

        begun, since, going = 0, 0.0, False

        def add(self, key: int, request: Request) -> None:
            if not self.begun and not self.going:
                self.since = time.perf_counter()
            self.begun += 1
            super().add(key, request)

        def step(self) -> list[tuple[int, Sample]]:
            running = self.unfinished
            done = super().step()
            now = time.perf_counter()
            turns.append((running, self.begun, len(done), now - self.since))
            self.begun, self.since, self.going = 0, now, self.unfinished > 0
            return done

    conf = from_file(folder / "config.yaml", ["reward.function=benchmarks._trl.side:reward"] if small else [])
    path = json.loads((folder / "provenance.json").read_text())["model"]
    tokenizer = load_tokenizer(path, conf.model)
    control = control_tokens(tokenizer, conf.model)
    encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
    stream = PromptStream(None, encode, conf.data, conf.run.seed + 1)
    rollout = conf.rollout
    sampling = SamplingParams(rollout.temperature, rollout.top_p, rollout.max_response_tokens)
    prompts_each, rounds, few = (4, 1, FEW[:6]) if small else (PROMPTS, ROUNDS, FEW)
    siblings = list(itertools.product(range(prompts_each), range(SIBLINGS)))
    worker = RolloutWorker(rollout, conf.model, path, control, conf.run.seed + 1, make_engine=Timed)
    trajectories = []
    for number in range(rounds + 1):
        prompts = stream.take(prompts_each)
        sampled = worker.sample(RolloutRequest(number, number, 0, tuple(prompts), tuple(siblings), sampling))
        if not number:  # vLLM's first steps make buffers
            turns.clear()
            continue
        trajectories += sampled.trajectories([prompts[p] for p, _ in siblings], [s for _, s in siblings])
    for number, count in enumerate(few, rounds + 1):
        alone = tuple((p, 0) for p in range(count))
        worker.sample(RolloutRequest(number, number, 0, tuple(stream.take(count)), alone, sampling))
    worker.close()
    with RewardWorker(conf.reward, path, control, conf.model) as judge:
        answers = [t for t in trajectories if t is not None]
        groups = group_trajectories(answers, judge.grade(answers), conf.reward)
    levels = sorted({str(group.prompt.level) for group in groups})
    whole = [group for group in groups if len(group.trajectories) == SIBLINGS]
    library = {
        "kinds": [levels.index(str(group.prompt.level)) for group in whole],
        "prompts": [len(group.prompt.token_ids) for group in whole],
        "lengths": [[len(t.token_ids) for t in group.trajectories] for group in whole],
        "rewards": [group.rewards.tolist() for group in whole],
    }
    return {"turns": turns, "library": library, "max_num_seqs": rollout.max_num_seqs}


def fitted(turns: list[tuple[int, int, int, float]], max_num_seqs: int) -> EngineCosts:
    """Least absolute deviations: a polygon in the number of running sequences, and costs of beginning and ending."""
    running, begun, ended, seconds = (np.array(column, float) for column in zip(*turns, strict=True))
    bends = [bend for bend in BENDS if bend < running.max()]
    curve = [np.ones_like(running), running, *(np.maximum(running - bend, 0) for bend in bends)]
    design = np.stack([*curve, begun > 0, begun, ended], 1).astype(float)
    weights = np.ones_like(seconds)
    for _ in range(30):
        found = np.linalg.lstsq(design * weights[:, None], seconds * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(design @ found - seconds), 1e-5))
    n = np.arange(max_num_seqs + 1)
    polygon = found[0] + found[1] * n + sum(f * np.maximum(n - bend, 0) for f, bend in zip(found[2:-3], bends))
    first_s, begin_s, end_s = np.maximum(found[-3:], 0.0).tolist()
    steps = tuple(np.maximum(polygon, 1e-6).tolist())
    return EngineCosts(steps, first_s=first_s, begin_s=begin_s, end_s=end_s)


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a run's steps, its first ones left out: step, sampling and reward are means, the others medians."""

    step: float  # from one step's end to the next one's
    sampling: float  # that the engine sampled, a step
    rollout: float
    reward: float  # that the reward actor graded
    learner: float
    push: float
    ask: float  # what else is inside a step
    tail: float  # between two steps
    load: float  # of one push, in the worker

    def __str__(self) -> str:
        return ", ".join(f"{name} {1000 * value:.0f}" for name, value in asdict(self).items()) + " ms"


def parts_of(folder: Path, skip: int) -> Parts:
    """From metrics.jsonl and timeline.json; the first `skip` steps make caches and buffers."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in lines if "seconds/step" in record]
    ends = np.array([record["time"] for record in records])
    names = ("seconds/step", "seconds/rollout", "seconds/reward", "seconds/learner", "weight_sync/seconds")
    whole, *known = (np.array([record[name] for record in records[skip:]]) for name in names)
    trace = read(folder / "timeline.json")
    if trace is None:
        raise SystemExit(f"{folder / 'timeline.json'} holds no step")
    spans = trace.spans[Actor("rollout")]
    graded = by_kind(trace.spans[Actor("reward")], trace.windows[skip:]).get("grading", 0.0)
    loads = [span.end - span.begin for span in spans if span.kind == "loading weights"][skip:]
    rollout, _, learner, push = (float(np.median(part)) for part in known)
    return Parts(
        step=float(ends[-1] - ends[skip - 1]) / len(whole),
        sampling=by_kind(spans, trace.windows[skip:])["sampling"] / len(whole),
        rollout=rollout,
        reward=graded / len(whole),
        learner=learner,
        push=push,
        ask=float(np.median(whole - sum(known))),
        tail=float(np.median(np.diff(ends[skip - 1 :]) - whole)),
        load=float(np.median(loads)),
    )


def line(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float]:
    """(constant, slope) through two points, neither negative."""
    slope = max((high[1] - low[1]) / (high[0] - low[0]), 0.0)
    constant = (low[1] + high[1]) / 2 - slope * (low[0] + high[0]) / 2
    if constant < 0:
        return 0.0, max((low[1] + high[1]) / (low[0] + high[0]), 0.0)
    return constant, slope
