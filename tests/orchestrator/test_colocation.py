"""Sampler and learner in turns: who may hold what when, with scripted actors that refuse to share a GPU, with a real
engine and a real learner, and in a whole run that must not differ from one on separate GPUs."""

from __future__ import annotations

import copy
import itertools
import json
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import AlgorithmConf, Config, Importance, LearnerConf, ModelConf, OnWeightSync
from learner.learner import Learner
from learner.restarts import Restarts
from orchestrator.base.errors import ActorDied, WaitedTooLong
from orchestrator.cluster import parts
from orchestrator.cluster.colocation import Colocation
from orchestrator.tracking.catalogue import repeatable
from orchestrator.training.logprob_check import logprob_gaps
from rollout.base.gpu_sharing import GpuSharing
from rollout.base.handle import in_order
from rollout.request import SamplingParams
from rollout.sampler import PendingBatch, Sampler
from rollout.weight_sync.sync import WeightSync
from rollout.worker import RolloutWorker
from tests.helpers.engines import MakeLearner, complete, rollout_request
from tests.helpers.handles import LocalFuture, LocalHandle
from tests.helpers.launched import SOON, Watched, one_line_error
from tests.helpers.prompts import make_prompts
from tests.helpers.runs import checkpoints, read_lines, records, restarts, steps
from tests.helpers.scripted import ThreadHandle


class Gpu:
    """What lies on one GPU, and the two who share it. Too much at a time, and what they need not being there, fail."""

    def __init__(self) -> None:
        self.sampler = {"weights", "kv_cache"}  # it has started
        self.learner: set[str] = set()
        self.learnt, self.pushed, self.host = 0, 0, True  # versions; whether the sampler's sleeping weights are kept
        self.newest, self.deferred = 0, False  # weights that were pushed; whether the sampler has no engine yet
        self.restarted = False
        self.log: list[str] = []

    def start(self) -> None:
        """An engine."""
        assert not self.learner, "an engine needs a GPU of its own to start"
        self.sampler, self.deferred, self.pushed = {"weights", "kv_cache"}, False, self.newest

    def die(self, free: bool) -> None:
        """The sampler, which starts again. free: what it is told of its GPU."""
        self.sampler, self.deferred, self.restarted = set(), True, True
        if free:
            self.start()

    def check(self) -> None:
        assert not ("optimizer" in self.learner and self.sampler), "the learner is whole while the sampler is there"
        assert not (self.learner and "kv_cache" in self.sampler), "a cache beside the learner's weights"

    def sleep(self, keep: bool) -> None:
        self.log.append(f"sleep {keep}")
        if self.deferred:
            return
        assert self.sampler, "sleeps already"
        self.sampler, self.host = set(), keep
        self.check()

    def wake(self, tags: list[str] | None = None) -> None:
        self.log.append(f"wake {tags}")
        if self.deferred:
            if "kv_cache" in (tags or ["kv_cache"]):
                self.start()
            return
        if self.restarted and self.sampler == {"weights", "kv_cache"}:
            return  # before it was asked, which an engine allows
        assert not set(tags or ()) & self.sampler
        if tags is None or "weights" in tags:
            self.pushed = self.pushed if self.host else -1
        self.sampler |= set(tags or ("weights", "kv_cache"))
        self.check()


class Rank:
    def __init__(self, gpu: Gpu):
        self.gpu = gpu

    def start(self) -> None:
        self.reload()

    def offload(self, kind: str) -> None:
        self.gpu.log.append(f"offload {kind}")
        self.gpu.learner = {"weights"} if kind == "optimizer" else set()
        self.gpu.check()

    def reload(self) -> None:
        self.gpu.log.append("learner reloads")
        self.gpu.learner = {"weights", "optimizer"}
        self.gpu.check()


def two() -> tuple[list[Gpu], Colocation]:
    places = [Gpu(), Gpu()]
    ranks = [Rank(gpu) for gpu in places]
    gpu_sharing = Colocation(
        [LocalHandle(gpu) for gpu in places], [LocalHandle(rank) for rank in ranks], 5.0, lambda futures: futures
    )
    gpu_sharing.starting()
    for rank in ranks:
        rank.start()
    for gpu in places:
        gpu.log.clear()
    return places, gpu_sharing


def test_each_phase_offloads_what_the_next_one_needs() -> None:
    """The usual course, call by call; the second of two in a row asks for nothing."""
    (gpu, other), gpu_sharing = two()
    course: list[tuple[Callable[[], None], list[str]]] = [
        (gpu_sharing.sampling, ["offload all", "wake None"]),  # the evaluation of the model that training begins with
        (gpu_sharing.pushing, ["sleep False", "offload optimizer", "wake ['weights']"]),
        (gpu_sharing.sampling, ["offload all", "wake ['kv_cache']"]),
        (gpu_sharing.sampling, []),
        (lambda: gpu_sharing.learning(changes=False), ["sleep True", "learner reloads"]),  # the check of log-probs
        (gpu_sharing.sampling, ["offload all", "wake None"]),
        (lambda: gpu_sharing.learning(changes=True), ["sleep False", "learner reloads"]),
        (lambda: gpu_sharing.learning(changes=True), []),
        (gpu_sharing.pushing, ["offload optimizer", "wake ['weights']"]),
        (gpu_sharing.pushing, []),
        (lambda: gpu_sharing.learning(changes=False), ["sleep True", "learner reloads"]),  # a checkpoint
        (gpu_sharing.sampling, ["offload all", "wake None"]),
    ]
    for say, want in course:
        say()
        assert gpu.log == other.log == want
        gpu.log.clear()
        other.log.clear()


class Mortals:
    """A sampler and a learner rank on one GPU, and deaths at calls of given numbers, whoever is called: before the call
    is done, or after. A sampler starts again and is asked again, as Ray does; a dead rank fails whoever asks it."""

    def __init__(self, deaths: dict[int, tuple[str, str]]):
        self.gpu, self.deaths, self.calls = Gpu(), deaths, itertools.count()
        self.rank, self.rank_lives, self.free = Rank(self.gpu), True, True
        self.gpu_sharing = Colocation([Mortal(self, "sampler")], [Mortal(self, "rank")], 5.0, waited, 0.0, self.let)
        self.gpu_sharing.recovered = self.recovered

    def die(self, who: str) -> None:
        if who == "sampler":
            self.gpu.die(self.free)
        else:
            self.gpu.learner, self.rank_lives = set(), False

    def at_call(self, do: Callable[[], None], whose: str = "") -> None:
        """Raises ActorDied where the rank is asked, and has died."""
        who, when = self.deaths.get(next(self.calls), ("", ""))
        if when == "before":
            self.die(who)
        if whose == "rank" and not self.rank_lives:
            raise ActorDied("learner rank 0 died")
        do()
        if when == "after":
            self.die(who)
            if who == whose == "rank":
                raise ActorDied("learner rank 0 died")
            if who == whose == "sampler":
                do()

    def let(self, free: bool) -> None:
        self.at_call(lambda: setattr(self, "free", free))

    def recovered(self, error: Exception) -> bool:
        assert isinstance(error, ActorDied)
        self.gpu.learner, self.rank_lives = set(), True
        self.gpu_sharing.starting()
        if not self.rank_lives:  # again, meanwhile
            return self.recovered(error)
        self.rank.start()
        return True

    def learns(self) -> None:
        """What calls the rank itself notices its death."""
        if not self.rank_lives:
            self.recovered(ActorDied("learner rank 0 died"))


class Mortal:
    def __init__(self, both: Mortals, who: str):
        self.both, self.who = both, who

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        body = self.both.gpu if self.who == "sampler" else self.both.rank
        try:
            self.both.at_call(lambda: getattr(body, method)(*args), self.who)
        except ActorDied as error:
            return Failed(error)
        return LocalFuture()


class Failed(LocalFuture):
    def wait(self) -> Any:
        raise self.value


def waited(futures: Sequence[Any]) -> list[Any]:
    return [future.wait() for future in futures]


def walk(order: list[str], both: Mortals) -> None:
    """Samples come from the weights of the last push, or are refused; whoever works has all that it works with."""
    gpu, gpu_sharing = both.gpu, both.gpu_sharing
    gpu_sharing.starting()
    both.rank_lives = True
    both.rank.start()
    for what in order:
        both.at_call(lambda: None)  # between two of them
        if what == "sample":
            if gpu.newest != gpu.learnt:
                with pytest.raises(RuntimeError, match="push them before sampling"):
                    gpu_sharing.sampling()
                continue
            gpu_sharing.sampling()
            assert gpu.sampler == {"weights", "kv_cache"} and not gpu.learner and gpu.pushed == gpu.learnt
        elif what == "push":
            gpu_sharing.pushing()
            while not both.rank_lives:  # it sends the weights
                both.learns()
                gpu_sharing.pushing()  # see WeightSync.again
            assert gpu.learner == {"weights"} and gpu.sampler == (set() if gpu.deferred else {"weights"})
            gpu.newest = gpu.learnt
            gpu.pushed = gpu.pushed if gpu.deferred else gpu.learnt
        else:
            gpu_sharing.learning(changes=what == "learn")
            both.learns()
            assert gpu.learner == {"weights", "optimizer"} and not gpu.sampler
            gpu.learnt += what == "learn"


WHO = st.sampled_from(["sampler", "rank"])
WORK = st.sampled_from(["sample", "push", "learn", "score"])


@settings(max_examples=300, deadline=None)
@given(order=st.lists(WORK, max_size=30))
def test_in_any_order_only_loaded_tensors_are_used(order: list[str]) -> None:
    both = Mortals({})
    walk(order, both)
    assert both.gpu.newest == both.gpu.pushed and not both.gpu.deferred


@settings(max_examples=1000, deadline=None)
@given(
    order=st.lists(WORK, max_size=20),
    deaths=st.dictionaries(st.integers(0, 80), st.tuples(WHO, st.sampled_from(["before", "after"])), max_size=8),
)
def test_whoever_dies_starts_again_on_a_gpu_that_is_free_for_it(
    order: list[str], deaths: dict[int, tuple[str, str]]
) -> None:
    """At any moment, also within a hand-over and within what mends the death before. Samples come from the weights of
    the last push nevertheless."""
    walk(order, Mortals(deaths))


def test_a_sampler_that_cannot_leave_for_new_ranks_is_named_and_not_they(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked when their processes are there: nobody takes its death for theirs."""
    order: list[str] = []

    class Sharing(GpuSharing):
        def starting(self) -> None:
            order.append("samplers leave")
            raise ActorDied("rollout worker 0 died")

    learner = Learner([], LearnerConf())
    learner.gpu_sharing = Sharing()
    monkeypatch.setattr(parts, "started", lambda ranks, *_: order.append("ranks are there"))
    with pytest.raises(ActorDied, match="rollout worker 0 died"):
        parts.start_learner(learner, Config())
    assert order == ["ranks are there", "samplers leave"]


def test_samplers_that_may_have_to_start_again_have_time_for_it() -> None:
    asked: list[float | None] = []

    class Asked(LocalHandle):
        def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
            asked.append(timeout_s)
            return super().call(method, *args)

    gpu = Gpu()
    gpu_sharing = Colocation([Asked(gpu)], [Asked(Rank(gpu))], 5.0, lambda futures: [], start_s=60.0)
    gpu_sharing.starting()
    gpu_sharing.sampling()
    assert asked == [65.0, 5.0, 65.0]


def test_a_time_out_says_who_waited_for_whom() -> None:
    gpu_sharing = two()[1]

    def late(_: list[Any]) -> list[Any]:
        raise WaitedTooLong("the driver timed out after 5 s waiting for learner rank 1 (offload)")

    gpu_sharing.wait_all = late
    with pytest.raises(WaitedTooLong) as raised:
        gpu_sharing.sampling()
    assert str(raised.value) == (
        "before the samplers can sample, learner ranks had 5 s (cluster.colocation_timeout_s) to leave their GPUs: "
        "the driver timed out after 5 s waiting for learner rank 1 (offload)"
    )


def test_on_separate_gpus_nothing_waits() -> None:
    gpu_sharing = GpuSharing()
    gpu_sharing.sampling(), gpu_sharing.pushing(), gpu_sharing.learning(changes=True), gpu_sharing.sampling()  # type: ignore[func-returns-value]


# ---- real ones ----


def test_a_colocated_engine_and_learner_agree_as_separate_ones_do(
    rollout_worker: RolloutWorker, make_learner: MakeLearner, tiny_model: Path
) -> None:
    """Out of turn each of them refuses; in turn they agree on the log-probs, as they would alone."""
    from learner.data.batch import TrainBatch
    from learner.data.pack import pack
    from learner.objective import optimizer_steps
    from learner.offload import TensorsOffloaded
    from reward.group import Group
    from reward.verdict import Outcome, Verdict
    from rollout.engine import Request
    from rollout.trajectory import Trajectory

    learner = make_learner(tiny_model)
    gpu_sharing = Colocation([LocalHandle(rollout_worker)], learner.ranks, 60.0, in_order)
    gpu_sharing.starting()
    learner.gpu_sharing = gpu_sharing
    sampler = Sampler([LocalHandle(rollout_worker)], SamplingParams(1.0, 1.0, 12))
    sampler.gpu_sharing = gpu_sharing
    weight_sync = WeightSync(learner.ranks, sampler, True)
    prompts = make_prompts(2)

    def sample(step: int) -> list[Trajectory]:
        request = rollout_request(prompts, 4, SamplingParams(1.0, 1.0, 12), step + 1, step)
        return complete(request, rollout_worker.sample(request))

    def batch(trajectories: list[Trajectory]) -> list[TrainBatch]:
        groups = []
        for p in range(2):
            mine = tuple(trajectories[4 * p : 4 * p + 4])
            rewards = np.array([1.0, -1.0, 0.5, -1.0], np.float32)
            verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, None, 0.0) for r in rewards)
            groups.append(Group(prompts[p], mine, verdicts, rewards))
        steps = optimizer_steps(groups, AlgorithmConf(optimizer_steps=1), 12)
        return [pack(sequences, totals, 8192, 1) for sequences, totals in steps]

    with pytest.raises(RuntimeError, match="asked for a response while it sleeps: wake it first"):
        rollout_worker.engine.add(0, Request(prompts[0].token_ids.tolist(), 4, 1.0, 1.0, 0))
    for step in range(3):
        weight_sync.start(step)
        gpu_sharing.sampling()
        trajectories = sample(step)
        with pytest.raises(TensorsOffloaded, match="a forward pass"):
            learner.ranks[0].call("logprobs", batch(trajectories)[0].ranks[0], 1.0)
        for mb, scored in learner.logprobs(batch(trajectories)[0], 1.0):
            response = mb.response
            assert np.abs(scored[response] - mb.behavior_logprobs[response]).max() < 1e-4
        gpu_sharing.sampling()
        assert [t.token_ids.tolist() for t in sample(step)] == [t.token_ids.tolist() for t in trajectories]
        report = learner.apply(batch(trajectories), AlgorithmConf(optimizer_steps=1, kl=0.0))
        assert report is not None and report.skipped == 0
        with pytest.raises(RuntimeError, match="push them before sampling"):
            gpu_sharing.sampling()
    with pytest.raises(RuntimeError, match="weights were dropped when it went to sleep: load some first"):
        rollout_worker.wake()
    weight_sync.start(3)
    gpu_sharing.sampling()
    assert rollout_worker.engine.awake


InTurns = tuple[Learner, Sampler, Colocation, WeightSync]


@pytest.fixture
def in_turns(
    rollout_worker: RolloutWorker, make_learner: MakeLearner, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> InTurns:
    """A real engine and a real learner that share a device, ready for batches ahead."""
    monkeypatch.setattr(rollout_worker.conf, "on_weight_sync", OnWeightSync.recompute)
    learner, handle = make_learner(tiny_model), ThreadHandle(rollout_worker)
    sampler = Sampler([handle], SamplingParams(1.0, 1.0, 12))
    gpu_sharing = Colocation([handle], learner.ranks, 60.0, in_order)
    gpu_sharing.starting()
    learner.gpu_sharing = sampler.gpu_sharing = gpu_sharing
    return learner, sampler, gpu_sharing, WeightSync(learner.ranks, sampler, True)


class MortalRank:
    """A learner rank in this process, which dies when it has done `dies_in`. What it returns is a copy, as with Ray."""

    def __init__(self, first: Any, make: Callable[[], Any]):
        self.handle, self.make, self.lives, self.dies_in = first, make, True, ""

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        if self.lives:
            answer = copy.deepcopy(self.handle.call(method, *args).wait())
            self.lives = method != self.dies_in
        return LocalFuture(answer) if self.lives else Failed(ActorDied("learner rank 0 died"))

    def replaced(self, error: Exception) -> bool:
        assert isinstance(error, ActorDied) and not self.lives, error
        self.handle, self.lives, self.dies_in = LocalHandle(self.make()), True, ""
        return True


def test_lost_ranks_stand_again_where_the_last_update_left_them(
    in_turns: InTurns, make_learner: MakeLearner, tiny_model: Path
) -> None:
    """Their state is kept before they leave the GPUs. Lost in an update, in a push and while the samplers have the
    GPUs, after each of six steps; equal to a learner that has lost none."""
    from learner.data.batch import Sequence
    from learner.data.pack import pack
    from learner.loss import Totals
    from learner.worker import LearnerWorker

    learner, sampler, gpu_sharing, weight_sync = in_turns
    undisturbed, prompt = make_learner(tiny_model), make_prompts(1)[0]
    rank = MortalRank(learner.ranks[0], lambda: LearnerWorker(learner.conf, ModelConf(), str(tiny_model), 0, 1.0, 100))
    learner.ranks = gpu_sharing.ranks = weight_sync.ranks = [rank]

    def start() -> None:
        gpu_sharing.starting()
        learner.start(None, reference=False)

    learner.restarts = restarts = Restarts(learner.ranks, rank.replaced, start, 1, in_order)
    weight_sync.recovered = gpu_sharing.recovered = learner.recovered
    restarts.then = weight_sync.again
    weight_sync.start(0)
    algorithm, rng = AlgorithmConf(optimizer_steps=1, kl=0.0), np.random.default_rng(0)
    for step, dies_in in enumerate(["update", "publish", "offload", "reload", "", "update"]):
        sampler.sample([prompt], 2, step).wait()
        ids = np.concatenate([prompt.token_ids, np.arange(10, 20, dtype=np.int32)])
        ones, zeros = np.ones(10, np.float32), np.zeros(10, np.float32)
        one = Sequence(ids, len(prompt.token_ids), ones, ones, float(rng.normal()), zeros, -1)
        batch = pack([one], Totals(1, 10, 10), 8192, 1)
        rank.dies_in = dies_in
        mine, other = (each.apply([batch], algorithm) for each in (learner, undisturbed))
        weight_sync.start(step + 1)
        learner.keep_state()
        assert mine is not None and other is not None and mine.loss == other.loss
    assert restarts.count == 5
    pushed, right = (each.call("publish", 9).wait() for each in (rank, undisturbed.ranks[0]))
    for (name, a), (_, b) in zip(pushed.tensors(), right.tensors(), strict=True):
        assert np.array_equal(a.float().numpy(), b.float().numpy()), name


def test_answers_of_the_next_batch_stop_while_the_learner_works_and_go_on_by_its_new_weights(
    in_turns: InTurns, rollout_worker: RolloutWorker
) -> None:
    """One batch ahead, by a real engine and a real learner: the bound holds, and each token that was sampled by the
    current weights has the learner's log-prob, also where the answer was begun by older ones."""
    from learner.data.pack import pack
    from learner.objective import optimizer_steps
    from reward.group import Group
    from reward.verdict import Outcome, Verdict

    learner, sampler, gpu_sharing, weight_sync = in_turns
    algorithm = AlgorithmConf(optimizer_steps=1, kl=0.0, importance=Importance.truncate)
    verdict, rewards = Verdict(Outcome.CORRECT, None, 0.0), np.array([1.0, -1.0, 0.5, -1.0], np.float32)
    ahead: deque[PendingBatch] = deque()
    checked = 0  # answers that were begun by older weights
    weight_sync.start(0)
    for step in range(6):
        while len(ahead) < 2:  # every second batch is long: it is under way when the one before it is learnt from
            number = step + len(ahead)
            sampling = SamplingParams(1.0, 1.0, 1500 if number % 2 else 8)
            ahead.append(sampler.sample(make_prompts(2, seed=number), 4, number, sampling))
        batch = ahead.popleft()
        trajectories = batch.wait()
        assert gpu_sharing.holder.value == "sampling" and len(trajectories) == 8
        versions = np.concatenate([t.versions for t in trajectories])
        assert step - 1 <= versions.min() and versions.max() <= step
        groups = [
            Group(batch.prompts[p], tuple(trajectories[4 * p : 4 * p + 4]), (verdict,) * 4, rewards) for p in range(2)
        ]
        [packed] = [pack(seqs, totals, 8192, 1) for seqs, totals in optimizer_steps(groups, algorithm, 1500)]
        under_way = [] if ahead[0].parts[0].answer.done() else list(rollout_worker.scheduler.running)
        gaps = np.concatenate([logprob_gaps([t], learner, 1.0, 8192) for t in trajectories])
        assert not rollout_worker.engine.awake and np.abs(gaps[versions == step]).max(initial=0.0) < 1e-4
        checked += sum(step in t.versions and t.versions[0] < step for t in trajectories)
        assert not under_way or not ahead[0].parts[0].answer.done()
        report = learner.apply([packed], algorithm)
        assert report is not None and report.skipped == 0
        weight_sync.start(step + 1)
        assert rollout_worker.ready() == step + 1 and not rollout_worker.engine.awake
    assert checked >= 6
    sampler.abort_all()
    assert rollout_worker.scheduler.empty and rollout_worker.engine.unfinished == 0
    gpu_sharing.sampling()


def test_in_any_order_of_turns_a_real_engine_samples_by_the_weights_of_the_last_push(
    in_turns: InTurns, rollout_worker: RolloutWorker
) -> None:
    """A long walk through sampling, pushing, learning and scoring, with long answers under way from time to time: the
    same short answers whenever the weights are the same, equal to the learner's log-probs, and refused before new
    weights were pushed."""
    from learner.data.batch import Sequence
    from learner.data.pack import pack
    from learner.loss import Totals

    (learner, sampler, _, weight_sync), prompts = in_turns, make_prompts(2)
    learnt = pushed = 0
    by_version: dict[int, list[list[int]]] = {}
    long: deque[PendingBatch] = deque()
    rng, seen = np.random.default_rng(0), Counter[str]()
    for _ in range(300):
        what = str(rng.choice(["sample", "begin", "push", "learn", "score"], p=[0.3, 0.15, 0.2, 0.2, 0.15]))
        if what in ("sample", "begin") and pushed != learnt:
            with pytest.raises(RuntimeError, match="push them before sampling"):
                sampler.sample(prompts, 4, 0)
            what = "refused"
        elif what == "begin":
            long.append(sampler.sample(prompts, 2, 1, SamplingParams(1.0, 1.0, 300)))
        elif what == "sample":
            trajectories = sampler.sample(prompts, 4, 0, urgent=True).wait()
            assert {version for t in trajectories for version in t.versions.tolist()} == {pushed}
            ids = [t.token_ids.tolist() for t in trajectories]
            assert by_version.setdefault(pushed, ids) == ids
            if rng.random() < 0.5:
                assert np.abs(logprob_gaps(trajectories, learner, 1.0, 8192)).max() < 1e-4
        elif what == "push":
            weight_sync.start(learnt)
            pushed = learnt
        else:
            ids_ = np.concatenate([prompts[0].token_ids, np.arange(10, 20, dtype=np.int32)])
            ones, zeros = np.ones(10, np.float32), np.zeros(10, np.float32)
            one = Sequence(ids_, len(prompts[0].token_ids), ones, ones, float(rng.normal()), zeros, -1)
            batch = pack([one], Totals(1, 10, 10), 8192, 1)
            if what == "learn":
                assert learner.apply([batch], AlgorithmConf(optimizer_steps=1, kl=0.0)) is not None
                learnt += 1
            else:
                learner.logprobs(batch, 1.0)
        seen[what] += 1
    weight_sync.start(learnt)
    assert len(by_version) > 5 and min(seen.values()) > 5
    for pending in long:
        for t in pending.wait():
            assert t.versions.tolist() == sorted(t.versions.tolist()) and t.versions[-1] <= learnt
    assert any(len(set(t.versions.tolist())) > 1 for pending in long for t in pending.wait())
    assert rollout_worker.scheduler.empty and rollout_worker.engine.unfinished == 0


def figures(folder: Path, until: int) -> list[str]:
    """Every record's figures that are repeatable, as text (which equals itself also where a figure is NaN)."""
    rows = lines(folder / "metrics.jsonl", until)
    return [json.dumps({key: row[key] for key in sorted(row) if repeatable(key)}) for row in rows]


def lines(path: Path, until: int) -> list[dict[str, Any]]:
    """Those of steps up to `until`."""
    return [row for row in read_lines(path) if row["step"] <= until]


@pytest.mark.bench
def test_a_colocated_run_one_batch_ahead_keeps_the_bound_and_can_be_interrupted(
    two_of_each: list[str], tmp_path: Path
) -> None:
    """Two of each, with checkpoints, validations and log-prob checks in between; a sampler and a rank are killed.
    Ctrl-C comes at any moment: the samplers may be awake or asleep, and have begun the next batch."""
    ahead = ["cluster.placement=colocated", "run.max_staleness=1", "algorithm.importance=truncate"]
    more = [*ahead, "rollout.on_weight_sync=recompute", "run.steps=100000", "run.name=mine"]
    more += ["rollout.max_restarts=1", "learner.max_restarts=1"]
    run, folder = Watched(["train", *two_of_each, *more], tmp_path), tmp_path / "runs" / "mine"
    run.until(lambda: max(steps(folder), default=0) >= 4, "four steps")
    for title in ("ray::RolloutWorker", "ray::LearnerWorker"):
        os.kill(run.titled(title)[1], signal.SIGKILL)
    run.until(lambda: sum(restarts(folder)) == sum(restarts(folder, "learner")) == 1, "the restarts")
    again = max(steps(folder))
    run.until(lambda: max(steps(folder)) >= again + 4, "four steps more")
    run.interrupt(signal.SIGINT)
    run.wait(SOON)
    assert run.returncode == 130 and one_line_error(run) == "thinkless: interrupted"
    done = steps(folder)[-1]
    assert checkpoints(folder)[-1] == done
    stale = [row["staleness/max"] for row in records(folder)]
    assert stale[0] == 0 and set(stale) <= {0, 1} and 1 in stale


def test_a_colocated_run_equals_a_disaggregated_one(killed: Any, colocated: Path) -> None:
    """Two of each, with checkpoints, validations and log-prob checks in between: the same numbers, bit for bit, though
    both lost samplers and learner ranks, and those of separate places were interrupted (test_faults). That they are
    the right ones: test_on_policy."""
    separate, count = killed.folder, killed.compared
    assert "placement: colocated" in (colocated / "config.yaml").read_text()
    assert "placement: disaggregated" in (separate / "config.yaml").read_text()
    found = figures(colocated, count)
    assert len(steps(colocated)) == count
    assert sum(restarts(colocated)) == sum(restarts(colocated, "learner")) == 1
    assert sum('"loss/total"' in row and '"reward/mean"' in row for row in found) >= 4
    assert figures(separate, count) == found
    assert lines(separate / "samples.jsonl", count) == lines(colocated / "samples.jsonl", count)
