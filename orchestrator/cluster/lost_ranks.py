"""Learner ranks that died or hang: noticed by the error of a call, ended, and replaced where they were.

In: handles of the ranks, errors of calls that had to do with them. Out: new actors behind the same handles,
`max_restarts` times at most. Must not know: what ranks do, how they get their state (`learner.restarts`).

All ranks are replaced for one: the others wait for it in a collective call, and what is left of their process group
serves no further one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from orchestrator.base.errors import ActorDied, ActorUnreachable, WaitedTooLong
from rollout.base.errors import BadInput, RankLost, in_one_line
from rollout.base.handle import Handle

SETTLE_S, POLL_S = 3.0, 0.1  # for a death to be known that an error came of
ERROR_CHARACTERS = 250  # of the error, in the line that ends the run


Result = TypeVar("Result")


class Replaceable(Handle, Protocol):
    """A `RayHandle`."""

    name: str
    hung: str

    @property
    def id(self) -> str: ...

    def place(self) -> tuple[str, int] | None: ...
    def end(self) -> None: ...
    def start_anew(self) -> None: ...


class LostRanks:
    def __init__(
        self,
        ranks: Sequence[Replaceable],
        max_restarts: int,
        ray_is_lost: Callable[[], object],
        state: str = "the state of the last finished update",
    ):
        """ray_is_lost: true when no actor can be started any more; state: with which ranks start again."""
        self.state = state
        self.ranks, self.max_restarts, self.ray_is_lost = ranks, max_restarts, ray_is_lost
        self.count = 0  # of restarts

    def replace(self, error: Exception) -> bool:
        """Whether `error` came of lost ranks, and all of them are new ones, which are starting. Raises ActorDied when
        that has been done too often."""
        cause = self._lost(error)
        if not cause or self.ray_is_lost():
            return False
        setting = f"learner.max_restarts={self.max_restarts}"
        if self.count == self.max_restarts:
            raise ActorDied(
                f"{cause}, and the ranks had been started again as often as {setting} allows "
                f"({in_one_line(error, ERROR_CHARACTERS)})"
            ) from error
        self.count += 1
        print(
            f"warning: {cause}: all ranks start again, with {self.state} (restart {self.count}, {setting})",
            file=sys.stderr,
            flush=True,
        )
        for rank in self.ranks:
            rank.end()
        for rank in self.ranks:
            rank.start_anew()
        return True

    def survived(self, attempt: Callable[[bool], Result]) -> Result:
        """What `attempt` returns, which is called again, with True, when ranks were lost in it and start again."""
        anew = False
        while True:
            try:
                return attempt(anew)
            except Exception as error:
                if not self.max_restarts or not self.replace(error):
                    raise
                anew = True

    def elsewhere(self) -> list[Replaceable | None]:
        """For each rank one on another host, those in turn; None where there is no other host, or it is not known."""
        hosts = [place[0] if (place := rank.place()) else None for rank in self.ranks]
        found = list[Replaceable | None]()
        for index, host in enumerate(hosts):
            others = [rank for rank, its in zip(self.ranks, hosts, strict=True) if host and its and its != host]
            found.append(others[index % len(others)] if others else None)
        return found

    def _lost(self, error: Exception) -> str:
        """Who is lost; empty: nobody."""
        if isinstance(error, BadInput):
            return ""
        end = time.monotonic() + SETTLE_S
        while not (dead := [rank for rank in self.ranks if rank.place() is None]) and time.monotonic() < end:
            time.sleep(POLL_S)
        if dead:
            hung = next((f" ({rank.hung})" for rank in dead if rank.hung), "")
            return f"{' and '.join(rank.name for rank in dead)} died{hung}"
        named = [rank.name for rank in self.ranks if rank.name in str(error)]
        cut_off = isinstance(error, ActorUnreachable) and (
            named or error.args[1:] in [(rank.id,) for rank in self.ranks]
        )
        if isinstance(error, RankLost) or cut_off or (isinstance(error, WaitedTooLong) and named):
            return f"a learner rank does not answer ({in_one_line(error, ERROR_CHARACTERS)})"
        return ""
