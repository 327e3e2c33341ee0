"""Lost learner ranks: whichever call it is that they are lost in, what is learnt is what would have been."""

from __future__ import annotations

from typing import Any

import pytest

from conf.schema import AlgorithmConf, LearnerConf
from learner.data.batch import TrainBatch
from learner.learner import Learner
from learner.metrics.report import StepReport
from learner.restarts import Restarts
from learner.written import Written
from rollout.base.handle import in_order
from tests.helpers.learner_ranks import train_batch

ALGORITHM = AlgorithmConf()
STEPS, CHECKPOINT = 5, 7  # updates; those of the checkpoint that some begin with


class Died(Exception):
    """A rank's process is gone."""


class Answer:
    """Of a call to a rank; what a call has returned outlives the rank, as in Ray's object store."""

    def __init__(self, value: Any):
        self.value = value

    def wait(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def done(self) -> bool:
        return True


class Crew:
    """Two ranks whose state is the list of what they were given. deadly: numbers of calls, counted over both ranks,
    that kill the rank before it has done anything."""

    def __init__(self, *deadly: int, every: int = 1, restarts: int = 3, after: bool = False):
        """after: they kill it when it has done all but answer."""
        self.deadly, self.after, self.left = set[int](), after, restarts
        self.calls: list[str] = []
        self.pushed: list[Any] = []  # the state of the ranks whenever they stood anew
        self.ranks = [Rank(self), Rank(self)]
        self.holders = list[Rank]()  # of each rank's state, on other hosts
        self.learner = Learner(self.ranks, LearnerConf(ranks=2))
        self.learner.start(None, False)
        self.learner.restarts = restarts_of = Restarts(
            self.ranks, self.replace, lambda: self.learner.start(None, False), every, in_order, lambda: self.holders
        )
        restarts_of.then = lambda: self.pushed.append([list(rank.state) for rank in self.ranks])
        self.calls.clear()
        self.deadly = set(deadly)

    def replace(self, error: Exception) -> bool:
        if not isinstance(error, Died):
            return False
        if not self.left:
            raise RuntimeError("too often") from error
        self.left -= 1
        for rank in self.ranks:
            rank.dead, rank.state, rank.held = False, [], {}
        return True


class Rank:
    def __init__(self, crew: Crew):
        self.crew, self.dead = crew, False
        self.state: list[Any] = []
        self.held: dict[int, list[Any]] = {}  # the last two

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Answer:
        kills = len(self.crew.calls) in self.crew.deadly
        self.crew.calls.append(method)
        lost = next((arg.value for arg in args if isinstance(arg, Answer) and isinstance(arg.value, Exception)), None)
        self.dead = self.dead or (kills and not self.crew.after)
        value: Any = Died(method)
        if not self.dead and lost is None:
            value = getattr(self, method)(*(arg.value if isinstance(arg, Answer) else arg for arg in args))
        self.dead = self.dead or kills
        return Answer(Died(method) if self.dead else lost or value)

    def address(self, port: int | None) -> tuple[str, int]:
        return "here", 1

    def start(self, address: str, port: int, reference: bool) -> int:
        self.state = ["start"]
        return 100

    def vocabulary(self) -> int:
        return 1_000_000

    def update(self, share: list[Any], algorithm: AlgorithmConf) -> StepReport:
        self.state = [*self.state, sum(int(mb.token_ids.sum()) for step in share for mb in step)]
        return StepReport(updates=len(self.state), skipped=0, tokens=1, seconds=1.0, lr=0.1, memory={})

    def keep(self) -> list[Any]:
        return list(self.state)

    def restore(self, *kept: list[Any]) -> None:
        assert [len(one) for one in kept] == [len(kept[0])] * 2  # of the same update
        self.state = list(kept[self.crew.ranks.index(self)])

    def hold(self, rank: int, kept: list[Any]) -> None:
        self.held[rank] = [*self.held.get(rank, [])[-1:], kept]

    def load(self, folder: str) -> int:
        self.state = ["start", folder]
        return CHECKPOINT

    def save(self, folder: str) -> Written:
        return {}

    def export(self, folder: str) -> None:
        if folder == "full":
            raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def batches() -> list[TrainBatch]:
    return [train_batch(seed, 2, ALGORITHM) for seed in range(STEPS)]


def run(crew: Crew, batches: list[TrainBatch], resumed: bool) -> tuple[list[Any], list[Any]]:
    """The ranks' state at the end, and what each update reported."""
    reports = []
    if resumed:
        assert crew.learner.load("checkpoint") == CHECKPOINT
    for step, batch in enumerate(batches):
        report = crew.learner.apply([batch], ALGORITHM)
        assert report is not None
        reports.append(report.updates)
        crew.learner.keep_state()
        if step % 2:
            crew.learner.save("somewhere")
    return [rank.state for rank in crew.ranks], reports


@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_rank_may_die_in_any_call(batches: list[TrainBatch], every: int, resumed: bool, after: bool) -> None:
    """And another one in any of the calls by which the first one's place is taken."""
    undisturbed = Crew(every=every)
    want = run(undisturbed, batches, resumed)
    calls = len(undisturbed.calls)
    assert undisturbed.learner.restart_count == 0 and calls > 2 * STEPS
    for first in range(calls):
        for second in (None, *range(first + 1, first + 12)):
            crew = Crew(*(one for one in (first, second) if one is not None), every=every, after=after)
            assert run(crew, batches, resumed) == want, (first, second)
            noticed = crew.calls[first] != "keep" or first < calls - 4  # behind the last ones no call comes
            assert int(noticed) <= crew.learner.restart_count == 3 - crew.left <= 2
            for states in crew.pushed:
                assert all(one == whole[: len(one)] for one, whole in zip(states, want[0], strict=True))


def test_what_is_repeated_is_what_the_kept_state_lacks(batches: list[TrainBatch]) -> None:
    """Rank 1 dies in the last update: the state behind the one before it may not be whole."""
    calls = len((undisturbed := Crew()).calls)
    run(undisturbed, batches, resumed=False)
    at = [place for place, call in enumerate(undisturbed.calls) if call == "update"][-1]
    crew = Crew(at)
    run(crew, batches, resumed=False)
    behind = [call for call in crew.calls[at + 1 - calls :] if call not in ("address", "vocabulary")]
    assert behind == [*["start"] * 2, *["restore"] * 2, *["update"] * 2, *["update"] * 2, *["keep"] * 2]
    assert crew.pushed == [[rank.state[:-1] for rank in undisturbed.ranks]]


def test_the_state_is_kept_every_few_updates_and_not_without_one(batches: list[TrainBatch]) -> None:
    crew = Crew(every=3)
    crew.learner.keep_state()
    assert crew.calls == []
    run(crew, [*batches, *batches], resumed=False)
    updates = [at for at, call in enumerate(crew.calls) if call == "update"]
    kept = [sum(at < place for at in updates) // 2 for place, call in enumerate(crew.calls) if call == "keep"]
    assert kept == [3, 3, 6, 6, 9, 9]


def test_what_is_no_loss_and_too_many_losses_end_it(batches: list[TrainBatch]) -> None:
    crew = Crew()
    with pytest.raises(OSError, match="No space left"):
        crew.learner.export("full")
    assert crew.learner.restart_count == 0
    with pytest.raises(RuntimeError, match="too often"):
        run(Crew(*range(0, 400, 3), restarts=2), batches, resumed=False)


def test_without_restarts_an_error_is_raised_at_once(batches: list[TrainBatch]) -> None:
    crew = Crew(0)
    crew.learner.restarts = None
    with pytest.raises(Died):
        crew.learner.apply(batches[:1], ALGORITHM)
    assert crew.calls == ["update"] * 2


def test_each_state_that_may_be_needed_is_held_on_another_host(batches: list[TrainBatch]) -> None:
    """By whichever rank is there then: after each call, and after a restart."""
    crew = Crew(restarts=1)
    crew.holders = [crew.ranks[1], crew.ranks[0]]
    restarts = crew.learner.restarts
    assert restarts is not None

    def held() -> list[list[Any]]:
        return [crew.ranks[1].held.get(0, []), crew.ranks[0].held.get(1, [])]

    for step, batch in enumerate(batches):
        if step == 3:
            crew.ranks[1].dead = True
        crew.learner.apply([batch], ALGORITHM)
        for index, kept in enumerate(restarts._kept):
            assert kept.wait() in held()[index]
        crew.learner.keep_state()
        for index, kept in [*enumerate(restarts._kept), *enumerate(restarts._keeping)]:
            assert kept.wait() in held()[index]
    assert restarts.count == 1 and len(restarts._kept) == 2
