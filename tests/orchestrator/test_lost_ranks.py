"""Which errors come of lost learner ranks, and how often those are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.base.errors import ActorDied, ActorUnreachable, WaitedTooLong
from orchestrator.cluster import lost_ranks
from orchestrator.cluster.lost_ranks import LostRanks
from rollout.base.errors import BadInput, RankLost

PARTED = RankLost("learner rank 0 of 2 waited for another rank in `update`, which did not answer")
CUT_OFF = ActorUnreachable("learner rank 1 (update): the actor cannot be reached (No route to host)")
WITH_IT = ActorUnreachable("rollout worker 0 (load): what it needs of another actor cannot be reached", "11111111")
LATE = WaitedTooLong("the driver timed out after 260 s waiting for learner rank 1 (update)")


class Rank:
    def __init__(self, index: int, lives: bool, host: str = "node"):
        self.name, self.lives, self.hung, self.host = f"learner rank {index}", lives, "", host
        self.id, self.done = f"{index}" * 8, list[str]()

    def place(self) -> tuple[str, int] | None:
        return (self.host, 1) if self.lives else None

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        raise AssertionError("ranks that are to be replaced are not called")

    def end(self) -> None:
        self.lives = False
        self.done.append("end")

    def start_anew(self) -> None:
        self.lives, self.hung = True, ""
        self.done.append("start")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_ranks, "SETTLE_S", 0.0)


@pytest.mark.parametrize(
    ("error", "dead", "said"),
    [
        (ActorDied("learner rank 1 (update): the actor died (killed)"), [1], "learner rank 1 died: all ranks start"),
        (PARTED, [1], "learner rank 1 died: all ranks start"),  # it was said first
        (ConnectionError("rollout worker 0 waited for learner rank 0, but it hung up"), [0, 1], "0 and learner rank 1"),
        (PARTED, [], "a learner rank does not answer (RankLost: learner rank 0 of 2 waited for another rank"),
        (CUT_OFF, [], "a learner rank does not answer (ActorUnreachable: learner rank 1 (update): the actor cannot"),
        (WITH_IT, [], "a learner rank does not answer (ActorUnreachable: rollout worker 0 (load): what it needs"),
        (LATE, [], "a learner rank does not answer (WaitedTooLong: the driver timed out after 260 s"),
    ],
)
def test_all_ranks_are_replaced_for_a_lost_one(
    error: Exception, dead: list[int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = [Rank(index, index not in dead) for index in range(2)]
    assert LostRanks(ranks, 3, lambda: "").replace(error)
    assert [rank.done for rank in ranks] == [["end", "start"]] * 2
    line = capsys.readouterr().err
    assert line.startswith("warning: ") and said in line and line.endswith("(restart 1, learner.max_restarts=3)\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ActorDied("rollout worker 0 (sample): the actor died"),
        ActorUnreachable("rollout worker 0 (sample): the actor cannot be reached (No route to host)"),
        ActorUnreachable("rollout worker 0 (load): what it needs of another actor cannot be reached", "22222222"),
        WaitedTooLong("the driver timed out after 600 s waiting for rollout worker 1 (load)"),
        TimeoutError("learner rank 0 timed out after 600 s waiting for rollout worker 1 to fetch the weights"),
        FloatingPointError("not finite"),
    ],
)
def test_other_errors_are_none_of_theirs(error: Exception) -> None:
    ranks = [Rank(0, True), Rank(1, True)]
    assert not LostRanks(ranks, 3, lambda: "").replace(error)
    assert not LostRanks(ranks, 3, lambda: "").replace(BadInput("learner rank 0 cannot read the model"))
    assert [rank.done for rank in ranks] == [[], []]


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("aa", [None, None]),
        ("a", [None]),
        ("ab", [1, 0]),
        ("aabb", [2, 3, 0, 1]),  # each holds one copy
        ("aab", [2, 2, 0]),
    ],
)
def test_copies_of_a_rank_s_state_are_held_on_another_host(hosts: str, expected: list[int | None]) -> None:
    ranks = [Rank(index, True, host) for index, host in enumerate(hosts)]
    held = LostRanks(ranks, 3, lambda: "").elsewhere()
    assert held == [None if index is None else ranks[index] for index in expected]
    ranks[0].lives = False  # it is not known where it is
    assert LostRanks(ranks, 3, lambda: "").elsewhere()[0] is None


def test_an_attempt_is_made_again_as_often_as_ranks_may_start() -> None:
    made: list[bool] = []

    def attempt(anew: bool) -> int:
        made.append(anew)
        if len(made) < 3:
            raise PARTED
        return len(made)

    ranks = [Rank(0, True), Rank(1, True)]
    assert LostRanks(ranks, 2, lambda: "").survived(attempt) == 3 and made == [False, True, True]
    made.clear()
    with pytest.raises(ActorDied, match=r"as often as learner.max_restarts=1 allows"):
        LostRanks(ranks, 1, lambda: "").survived(attempt)
    made.clear()
    with pytest.raises(RankLost):  # without a word of restarts, which nobody has asked for
        LostRanks(ranks, 0, lambda: "").survived(attempt)
    assert made == [False]
    with pytest.raises(ZeroDivisionError):
        LostRanks(ranks, 2, lambda: "").survived(lambda anew: 1 // 0)


def test_nobody_is_started_when_ray_is_lost() -> None:
    ranks = [Rank(0, False)]
    assert not LostRanks(ranks, 3, lambda: "the raylet has died").replace(PARTED)
    assert ranks[0].done == []


def test_after_the_last_restart_the_error_names_the_lost_rank_and_the_setting() -> None:
    ranks = [Rank(0, True), Rank(1, True)]
    lost = LostRanks(ranks, 2, lambda: "")
    for _ in range(2):
        ranks[1].lives = False
        assert lost.replace(PARTED)
    ranks[1].lives, ranks[1].hung = False, "it had made no progress for 30 s (cluster.hang_s=20)"
    with pytest.raises(ActorDied) as raised:
        lost.replace(PARTED)
    assert str(raised.value) == (
        "learner rank 1 died (it had made no progress for 30 s (cluster.hang_s=20)), and the ranks had been started "
        "again as often as learner.max_restarts=2 allows (RankLost: learner rank 0 of 2 waited for another rank in "
        "`update`, which did not answer)"
    )
