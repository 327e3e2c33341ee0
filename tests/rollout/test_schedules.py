"""Random schedules of sampler, workers and batch queue with scripted engines: whenever weights arrive, workers stall,
batches are urgent or aborted, every trajectory comes once, whole, in its place, with the version that sampled each
token, and within the staleness bound.

Seeds decide what is requested and who is slow; threads decide the rest, so that each run sees other interleavings.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from conf.schema import Config, OnWeightSync, Placement, RolloutConf, RunConf
from orchestrator.cluster.colocation import Colocation
from orchestrator.training.batch_queue import BatchQueue
from reward.grader import Grader
from rollout.base.handle import in_order
from rollout.data.stream import PromptStream
from rollout.mode import MODES
from rollout.prompt import Prompt
from rollout.request import SamplingParams, derive_seed
from rollout.sampler import Part, PendingBatch, Sampler
from rollout.trajectory import Trajectory
from rollout.weight_sync.sync import WeightSync
from rollout.weight_sync.weights import Weights
from rollout.worker import RolloutWorker
from tests.helpers.handles import PendingHandle
from tests.helpers.scripted import (
    PATIENCE_S,
    RUN_SEED,
    Notes,
    ThreadFuture,
    ThreadHandle,
    check_left_over,
    check_trajectory,
    counted,
    in_thread,
    make_worker,
    number_of,
    pauses,
    prompt,
    scripted_weights,
)

SCHEDULES, BLOCKS = 240, 4

pytestmark = pytest.mark.usefixtures("impatient")


@dataclass
class Run:
    """One random training run: the loop's order of `orchestrator.training.loop`, scripted workers, no learner."""

    rng: random.Random
    conf: Config
    sampler: Sampler
    workers: list[RolloutWorker]
    notes: list[Notes]
    stream: PromptStream
    seen: Counter[str] = field(default_factory=Counter)  # what the schedules are for did happen

    def __post_init__(self) -> None:
        if self.conf.cluster.placement is Placement.colocated:
            self.sampler.gpu_sharing = Colocation(self.sampler.workers, [self], PATIENCE_S, in_order)
            self.sampler.gpu_sharing.starting()

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> ThreadFuture:
        """The learner's rank: weights that are there a little later."""
        if method in ("offload", "reload"):
            return in_thread(lambda: None)
        (version,) = args
        assert method == "publish"
        seconds = self.rng.choice([0.0, 0.0, 0.0005, 0.002])

        def later() -> Weights:
            time.sleep(seconds)
            return scripted_weights(version)

        return in_thread(later)

    def check(
        self,
        batch: PendingBatch,
        trajectories: list[Trajectory],
        prompts: list[Prompt],
        siblings: int,
        step: int,
        least: int,
    ) -> None:
        """A batch that was waited for and not given up."""
        expected = [(p.uid, s) for p in prompts for s in range(siblings)]
        assert [(t.prompt.uid, t.sibling) for t in trajectories] == expected
        assert batch.stats is not None
        assert batch.stats.tokens == sum(len(t.token_ids) - t.forced for t in trajectories)
        at = {place: worker for part, worker in self.places(batch) for place in part.places}
        for place, t in enumerate(trajectories):
            check_trajectory(t, step, batch.parts[0].request.sampling, self.notes[at[place]])
            assert t.versions.min() >= least
            self.seen["several versions"] += len(set(t.versions.tolist())) > 1

    def places(self, batch: PendingBatch) -> list[tuple[Part, int]]:
        """Parts, and the worker that each went to: the one that wrote its first seed down."""
        found = []
        for part in batch.parts:
            request = part.request
            seed = derive_seed(RUN_SEED, request.prompts[0].uid, request.siblings[0][1], request.step)
            (worker,) = [i for i, notes in enumerate(self.notes) if seed in notes.versions]
            found.append((part, worker))
        return found

    def go(self) -> None:
        rng, run, group = self.rng, self.conf.run, self.conf.rollout.group_size
        step = rng.choice([0, 0, 3])
        run.steps += step
        grader = Grader([PendingHandle()], self.conf.reward)  # nobody grades
        batch_queue, seen = BatchQueue(self.conf, self.stream, self.sampler, grader, []), 0
        synchronous = run.max_staleness == 0 or self.conf.cluster.placement is Placement.colocated
        weight_sync = WeightSync([self], self.sampler, synchronous)
        weight_sync.start(step)
        weight_sync.wait()
        given_up = []
        while step < run.steps:
            batch_queue.ask(step)
            assert len(batch_queue.state()["asked"]) == min(run.max_staleness + 1, run.steps - step)
            batch = batch_queue.oldest().batch
            numbers = [number_of(prompt) for prompt in batch.prompts]
            assert numbers == sorted(numbers) and numbers[0] >= seen
            seen = numbers[-1] + 1
            least = batch.parts[0].request.min_version
            assert step - run.max_staleness <= least <= step
            trajectories = [*batch.wait()]
            self.check(batch, trajectories, batch.prompts, group, step, least)
            if rng.random() < 0.3:  # dynamic sampling, some of which is no longer needed
                more = [self.sampler.sample(self.stream.take(1), group, step) for _ in range(rng.randint(1, 4))]
                needed = rng.randint(1, len(more))
                for one in more[:needed]:
                    found = one.wait()
                    self.check(one, found, one.prompts, group, step, step)
                    trajectories += found
                for one in more[needed:]:
                    lost = one.abort()
                    assert 0 <= lost <= group
                    self.seen["given up"] += lost
                given_up += more[needed:]
            staleness = step - min(int(t.versions.min()) for t in trajectories)
            assert 0 <= staleness == batch_queue.measure(trajectories, step) <= run.max_staleness
            self.seen["stalest"] += staleness == run.max_staleness > 0
            self.learn()
            step += 1
            weight_sync.start(step)
            if rng.random() < 0.25:
                self.evaluate(step)
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.002)
        weight_sync.wait()
        assert not batch_queue.state()["asked"]
        for one in given_up:
            for t in one.wait():  # those that ended before
                notes = self.notes[self.places(one)[0][1]]
                check_trajectory(t, one.parts[0].request.step, self.sampler.sampling, notes)

    def learn(self) -> None:
        """Where samplers share the learner's GPUs, none of them does anything meanwhile."""
        self.sampler.gpu_sharing.learning(changes=True)
        if self.conf.cluster.placement is Placement.colocated:
            steps = [notes.steps for notes in self.notes]
            time.sleep(self.rng.random() * 0.002)
            assert not any(worker.engine.awake for worker in self.workers)
            assert [notes.steps for notes in self.notes] == steps

    def evaluate(self, step: int) -> None:
        """Urgent batches, with the mode forced or chosen, by the newest weights and no others."""
        mode = self.rng.choice([None, *MODES])
        sampling = SamplingParams(0.7, 0.9, self.rng.randint(2, 40), mode, None, self.rng.choice([None, 5]))
        requested = [[prompt(i, None, f"test {step} {k}") for i in range(self.rng.randint(1, 6))] for k in range(2)]
        batches = [self.sampler.sample(prompts, 2, -1 - step, sampling, urgent=True) for prompts in requested]
        for prompts, batch in zip(requested, batches, strict=True):
            self.check(batch, batch.wait(), prompts, 2, -1 - step, step)

    def finish(self) -> None:
        for worker, notes in zip(self.workers, self.notes, strict=True):
            check_left_over(worker, notes)
            twice = [seed for seed, count in Counter(notes.ended).items() if count > 1]
            assert not twice
            self.seen["loads among running"] += sum(under_way > 0 for _, under_way in notes.loads)
            self.seen["interrupted by the learner"] += sum(under_way > 0 for under_way in notes.sleeps)
        begun = Counter(seed for notes in self.notes for seed, _ in notes.begun)
        assert all(count == 1 for count in begun.values())


def random_run(seed: int) -> Run:
    rng = random.Random(seed)
    workers = rng.randint(1, 4)
    rollout = RolloutConf(
        workers=workers,
        group_size=rng.randint(1, 5),
        prompts_per_step=rng.randint(1, 12),
        max_num_seqs=rng.choice([1, 2, 5, 16, 64]),
        on_weight_sync=rng.choice(list(OnWeightSync)),
    )
    conf = Config(rollout=rollout, run=RunConf(steps=rng.randint(1, 6), max_staleness=rng.randint(0, 4)))
    if rng.random() < 0.7 and (rollout.on_weight_sync is OnWeightSync.recompute or not conf.run.max_staleness):
        conf.cluster.placement = Placement.colocated
    longest = rng.choice([2, 12, 60])
    caps = [rng.choice([None, rng.randint(2, longest)]) for _ in range(2)]
    sampling = SamplingParams(1.0, 1.0, longest, None, caps[0], caps[1])
    notes = [Notes(pause=pauses(rng)) for _ in range(workers)]
    bodies = [make_worker(each, rollout) for each in notes]
    late = rng.choice([0.0, 0.2])
    jitter = random.Random(seed)
    handles = [
        ThreadHandle(body, lambda: jitter.random() * 0.001 if jitter.random() < late else -1.0) for body in bodies
    ]
    sampler = Sampler(handles, sampling)
    return Run(rng, conf, sampler, bodies, notes, counted(500))


@pytest.mark.heavy
@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_trajectory_of_a_random_schedule_comes_once_whole_and_within_the_staleness_bound(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(block, SCHEDULES, BLOCKS):
        run = random_run(seed)
        try:
            run.go()
            run.finish()
            seen += run.seen
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
    happened = ("stalest", "several versions", "given up", "loads among running", "interrupted by the learner")
    assert min(seen[what] for what in happened) > 0, seen
