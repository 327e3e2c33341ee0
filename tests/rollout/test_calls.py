"""One rollout worker with a scripted engine and concurrent callers: the order of sequences, the weights that requests
wait for, aborts, and what callers get when the worker ends.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from conf.schema import ModelConf, OnWeightSync, RolloutConf
from rollout.base.errors import EngineDied
from rollout.prompt import Prompt
from rollout.request import RolloutRequest, SamplingParams, derive_seed
from rollout.worker import RolloutWorker
from tests.helpers.engines import rollout_request, sampled
from tests.helpers.scripted import (
    CONTROL,
    PATIENCE_S,
    RUN_SEED,
    Notes,
    ScriptedEngine,
    ThreadFuture,
    ThreadHandle,
    answer,
    check_left_over,
    make_worker,
    pauses,
    prompt,
    scripted_weights,
)

pytestmark = pytest.mark.usefixtures("impatient")


def ask(
    batch: int, prompts: list[Prompt], siblings: int = 1, min_version: int = 0, longest: int = 30, step: int = 0
) -> RolloutRequest:
    return rollout_request(prompts, siblings, SamplingParams(1.0, 1.0, longest), batch, step, min_version)


def long_ones(count: int, longest: int = 30, step: int = 0) -> list[Prompt]:
    """Prompts whose answers are cut off."""
    found = []
    for i in range(10_000):
        if not answer(derive_seed(RUN_SEED, prompt(i, None, "long").uid, 0, step), longest, {})[1]:
            found.append(prompt(i, None, "long"))
        if len(found) == count:
            return found
    raise AssertionError("the script writes too few long answers")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "stuck"
        time.sleep(0.0005)


@dataclass
class Stepped:
    """A worker whose engine steps only when the test says so."""

    worker: RolloutWorker
    notes: Notes
    handle: ThreadHandle
    gate: threading.Semaphore

    def ask(self, method: str, *args: Any) -> ThreadFuture:
        """Call, and wait until the call lies in the mailbox, which the engine thread, in a step, does not look into."""
        until(lambda: self.notes.at_gate)
        size = len(self.worker.mailbox)
        answer = self.handle.call(method, *args)
        until(lambda: len(self.worker.mailbox) == size + 1)
        return answer

    def start(self, request: RolloutRequest) -> ThreadFuture:
        """The same while nothing runs: afterwards the engine is in its first step."""
        answer = self.handle.call("sample", request)
        until(lambda: self.notes.at_gate)
        return answer

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            until(lambda: self.notes.at_gate)
            steps = self.notes.steps + 1
            self.gate.release()
            until(partial(self._made, steps))

    def _made(self, steps: int) -> bool:
        return self.notes.steps == steps

    def run_on(self) -> None:
        self.gate.release(10_000)


MakeStepped = Callable[..., Stepped]


@pytest.fixture
def make_stepped() -> Iterator[MakeStepped]:
    made: list[Stepped] = []

    def make(**conf: Any) -> Stepped:
        gate = threading.Semaphore(0)
        notes = Notes(gate=gate)
        worker = make_worker(notes, RolloutConf(**conf))
        made.append(Stepped(worker, notes, ThreadHandle(worker), gate))
        return made[-1]

    yield make
    for one in made:
        one.run_on()
        one.worker.close()


def test_loads_that_drain_run_in_the_order_of_their_calls(make_stepped: MakeStepped) -> None:
    """Also when what they wait for is given up in the moment that the second come."""
    one = make_stepped(on_weight_sync=OnWeightSync.drain)
    answer_ = one.start(ask(1, long_ones(3)))
    first = one.ask("load", scripted_weights(1))
    one.step()
    given_up, second = one.ask("abort", 1), one.ask("load", scripted_weights(2))
    one.run_on()
    first.wait(), second.wait()
    assert given_up.wait() == 3 and answer_.wait().lengths.tolist() == [0, 0, 0]
    assert one.notes.loads == [(1, 0), (2, 0)] and one.worker.ready() == 2


def test_nothing_begins_while_the_worker_drains(make_stepped: MakeStepped) -> None:
    one = make_stepped(on_weight_sync=OnWeightSync.drain)
    first = one.start(ask(1, long_ones(2, 10), longest=10))
    loaded, second = one.ask("load", scripted_weights(4)), one.ask("sample", ask(2, [prompt(1)]))
    one.run_on()
    assert loaded.wait() >= 0
    assert set(first.wait().versions) == {0} and set(second.wait().versions) == {4}
    assert [version for _, version in one.notes.begun] == [0, 0, 4]


def test_weights_are_loaded_between_two_tokens(make_stepped: MakeStepped) -> None:
    one = make_stepped()
    answer_ = one.start(ask(1, long_ones(3)))
    one.step(2)
    first = one.ask("load", scripted_weights(1))
    one.step()  # the third, by the old weights: it had begun
    assert first.wait() >= 0
    one.step(4)
    one.ask("load", scripted_weights(2))
    one.ask("load", scripted_weights(3))
    one.run_on()
    versions = answer_.wait().versions.reshape(3, 30)
    assert versions.tolist() == [[0] * 3 + [1] * 5 + [3] * 22] * 3


def test_older_batches_begin_first_and_urgent_ones_before_them(make_stepped: MakeStepped) -> None:
    """With room for two: those that run are not disturbed; within a batch in the order given, siblings together."""
    one = make_stepped(max_num_seqs=2)
    requests = {
        batch: ask(batch, [prompt(i, None, f"b{batch}") for i in range(2)], 2, longest=4) for batch in (7, 3, 9, -50)
    }
    answers = [one.start(requests[7])] + [one.ask("sample", requests[batch]) for batch in (9, 3, -50)]
    one.run_on()
    for answer_ in answers:
        answer_.wait()
    seeds = {
        batch: [derive_seed(RUN_SEED, request.prompts[p].uid, s, 0) for p, s in request.siblings]
        for batch, request in requests.items()
    }
    expected = seeds[7][:2] + seeds[-50] + seeds[3] + seeds[7][2:] + seeds[9]
    assert [seed for seed, _ in one.notes.begun] == expected and one.notes.most == 2


def test_requests_of_one_batch_begin_in_the_order_of_their_calls(make_stepped: MakeStepped) -> None:
    one = make_stepped(max_num_seqs=1)
    requests = [ask(3, [prompt(i, None, "same")], longest=3) for i in range(5)]
    answers = [one.start(requests[0])] + [one.ask("sample", request) for request in requests[1:]]
    one.run_on()
    for answer_ in answers:
        answer_.wait()
    assert [seed for seed, _ in one.notes.begun] == [
        derive_seed(RUN_SEED, request.prompts[0].uid, 0, 0) for request in requests
    ]


def test_a_request_waits_for_its_minimum_version_and_delays_no_other() -> None:
    """Requested before they arrive: every token is by them. It delays no other request meanwhile."""
    notes = Notes()
    worker = make_worker(notes, RolloutConf())
    handle = ThreadHandle(worker)
    early = handle.call("sample", ask(1, [prompt(i) for i in range(4)], min_version=3))
    others = handle.call("sample", ask(2, [prompt(i) for i in range(4)], step=1)).wait()
    assert set(others.versions) == {0} and not early.done()
    worker.load(scripted_weights(2))
    time.sleep(0.01)
    assert not early.done() and len(notes.begun) == 4
    worker.load(scripted_weights(3))
    assert set(early.wait().versions) == {3}
    kinds = [span.kind for span in worker.take_spans()]
    assert "waiting for weights" in kinds and "loading weights" in kinds and "sampling" in kinds
    check_left_over(worker, notes)


def test_an_aborted_batch_leaves_the_others_alone(make_stepped: MakeStepped) -> None:
    """What is running, what waits for room, and what waits for weights; what had ended stays."""
    one = make_stepped(max_num_seqs=4)
    short = next(p for p in (prompt(i, None, "s") for i in range(999)) if len(found_ids(p)) == 2)
    doomed = ask(5, [short, *long_ones(6)])
    first = one.start(doomed)
    others = one.ask("sample", ask(6, [prompt(i) for i in range(8)]))
    never = one.ask("sample", ask(5, [prompt(99)], min_version=77))
    one.step(3)
    given_up = one.ask("abort", 5)
    one.step()
    assert given_up.wait() == 7
    assert first.wait().lengths.tolist() == [2] + [0] * 6 and never.wait().lengths.tolist() == [0]
    kept = sampled(doomed, first.wait())
    assert kept[0] is not None and kept[0].token_ids.tolist() == found_ids(short) and kept[1:] == [None] * 6
    assert one.worker.scheduler.waiting in ([], [6])
    one.run_on()
    assert (others.wait().lengths > 0).all()
    assert one.worker.abort(5) == one.worker.abort(6) == one.worker.abort(1234) == 0
    check_left_over(one.worker, one.notes)


def found_ids(p: Prompt, step: int = 0, longest: int = 30) -> list[int]:
    return answer(derive_seed(RUN_SEED, p.uid, 0, step), longest, {})[0]


def test_a_request_without_siblings_has_an_empty_result() -> None:
    notes = Notes()
    worker = make_worker(notes, RolloutConf())
    request = replace(ask(1, [prompt(1)]), siblings=())
    result = worker.sample(request)
    assert len(result.lengths) == len(result.token_ids) == result.tokens == 0 and result.seconds >= 0
    assert sampled(request, result) == []
    check_left_over(worker, notes)


def test_a_failed_load_raises_in_its_caller_only(make_stepped: MakeStepped) -> None:
    one = make_stepped()
    one.notes.broken = 1
    answer_ = one.start(ask(1, long_ones(2)))
    broken = one.ask("load", scripted_weights(1))
    one.run_on()
    with pytest.raises(ValueError, match="broken weights of version 1"):
        broken.wait()
    assert set(answer_.wait().versions) == {0}
    one.worker.load(scripted_weights(2))
    assert set(one.worker.sample(ask(2, [prompt(1)], min_version=2)).versions) == {2}


def test_an_engines_start_up_error_is_raised_by_the_constructor() -> None:
    def make(*args: Any) -> Any:
        assert not gc.isenabled()  # a million objects that stay
        raise ZeroDivisionError("no engine")

    with pytest.raises(ZeroDivisionError, match="no engine"):
        RolloutWorker(RolloutConf(), ModelConf(), "", CONTROL, 0, make_engine=make)
    assert gc.isenabled()


def test_a_restarted_worker_begins_with_the_current_weights() -> None:
    make = partial(ScriptedEngine, Notes())
    for weights, version in ((scripted_weights(8), 8), (None, 0)):
        worker = RolloutWorker(
            RolloutConf(), ModelConf(), "", CONTROL, 0, current=partial(lambda found: found, weights), make_engine=make
        )
        assert worker.ready() == version
        worker.close()


@pytest.mark.parametrize("tags", [None, ["kv_cache"]])
def test_a_worker_whose_gpu_is_not_free_starts_an_engine_when_it_gets_all_of_it(tags: list[str] | None) -> None:
    """Whatever it is asked before is for an engine that has memory there; requests wait."""
    notes, conf, current = Notes(), RolloutConf(), partial(scripted_weights, 7)
    make = partial(ScriptedEngine, notes)
    worker = RolloutWorker(conf, ModelConf(), "", CONTROL, RUN_SEED, current, make, may_start=lambda: False)
    answer_ = ThreadHandle(worker).call("sample", ask(1, [prompt(1)], min_version=7))
    worker.sleep(True)
    worker.wake(["weights"])
    worker.load(scripted_weights(6))
    worker.sleep(False)
    assert worker.abort(1234) == 0 and worker.ready() == 0
    assert not answer_.done() and not notes.begun and not notes.loads
    worker.wake(tags)
    assert set(answer_.wait().versions) == {7} and notes.loads == [(7, 0)]
    worker.sleep(True)
    worker.wake()
    assert set(worker.sample(ask(2, [prompt(2)])).versions) == {7} and len(notes.loads) == 1
    check_left_over(worker, notes)


def test_an_engine_that_cannot_start_later_either_says_so_to_who_asked() -> None:
    def make(*args: Any) -> Any:
        raise ZeroDivisionError("no engine")

    worker = RolloutWorker(RolloutConf(), ModelConf(), "", CONTROL, 0, make_engine=make, may_start=lambda: False)
    with pytest.raises(ZeroDivisionError, match="no engine"):
        worker.wake()
    worker.close()


# ---------------------------------------------------------------------- the end


@pytest.mark.parametrize("end", ["failure", "close"])
def test_every_call_to_a_worker_that_ended_returns_or_raises(end: str) -> None:
    """Whatever they wait for, and whenever the end comes: an answer, or EngineDied; nothing else, and soon."""
    ends: Counter[str] = Counter()
    for seed in range(150):
        rng = random.Random(seed)
        notes = Notes(pause=pauses(rng), fail_at=rng.randint(1, 60) if end == "failure" else None)
        conf = RolloutConf(max_num_seqs=rng.choice([1, 8]), on_weight_sync=rng.choice(list(OnWeightSync)))
        worker = make_worker(notes, conf)
        handle = ThreadHandle(worker)
        calls: list[tuple[str, Any]] = [("sample", ask(i, [prompt(i * 9 + k) for k in range(5)], 2)) for i in range(6)]
        calls += [("load", scripted_weights(i)) for i in range(1, 4)]
        calls += [("abort", 3), ("sample", ask(9, [prompt(0)], min_version=99))]
        rng.shuffle(calls)
        try:
            answers = []
            for call in calls:
                answers.append(handle.call(*call))
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.002)
            if end == "close":
                time.sleep(rng.random() * 0.003)
                worker.close()
            for answer_ in answers:
                try:
                    answer_.wait()
                    ends["answered"] += 1
                except EngineDied as error:
                    ends["died"] += 1
                    words = "ZeroDivisionError: as the script says" if end == "failure" else "was closed"
                    assert words in str(error)
            for call in calls:
                with pytest.raises(EngineDied):
                    handle.call(*call).wait()
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
        worker.thread.join(PATIENCE_S)
        assert not worker.thread.is_alive()
        assert notes.closed
    assert ends["answered"] > 100 and ends["died"] > 100
