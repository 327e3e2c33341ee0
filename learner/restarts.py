"""Lost learner ranks are replaced, and stand again where the last finished update had left them, to the bit.

In: the ranks' handles, what replaces lost ones, each finished update. Out: ranks to go on with. Must not know: how
ranks are lost and replaced, what an update is.

Every few updates each rank's state is kept outside of its process (what a call returns lives on when the rank dies: in
Ray's object store, on the rank's host). Where ranks are on several hosts, one on another host holds a copy of it, so
that it outlives a host. Updates since then are remembered, and done again: their batches are still in this process, so
that nothing is sampled twice.

    update 1, keep, update 2, keep, [a rank dies in update 3]  ->  restore 1, update 2, update 3

Ranks serve calls in order. So a state is known to be whole when every rank has answered the update behind it, without
fetching it (copies are held in the same order); until then the one before it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rollout.base.handle import Future, Handle, WaitAll

Ask = Callable[[], list[Future]]  # the same call to all ranks


class Restarts:
    def __init__(
        self,
        ranks: Sequence[Handle],
        replace: Callable[[Exception], bool],
        start: Callable[[], Any],
        every: int,
        wait_all: WaitAll,
        elsewhere: Callable[[], Sequence[Handle | None]] = tuple,
    ):
        """replace: given an error of a call, whether ranks were lost, and are there anew, behind the same handles; it
        raises when they may not be any more. start: brings new ranks to where the run's first ones began. every:
        updates between two states that are kept. elsewhere: for each rank, one on another host."""
        self.ranks, self.replace, self.start, self.every, self.wait_all = ranks, replace, start, every, wait_all
        self.elsewhere, self.count = elsewhere, 0  # of restarts
        self.then: Callable[[], None] = lambda: None  # called when the ranks stand there again
        self._began: Ask | None = None  # with a checkpoint
        self._kept: list[Future] = []  # of each rank, whole; empty: none yet
        self._keeping: list[Future] = []  # under way
        self._since: list[Ask] = []  # updates behind `_kept`, or behind the start
        self._before = 0  # how many of them `_keeping` has

    def loaded(self, load: Ask) -> None:
        """The ranks stand where this call has brought them."""
        self._began, self._kept, self._since = load, [], []
        self._keep()  # at once: the checkpoint will be dropped by later ones

    def updated(self, update: Ask) -> None:
        """All ranks have answered this call."""
        if self._keeping:
            self._kept, self._keeping, self._since = self._keeping, [], self._since[self._before :]
        self._since.append(update)

    def keep(self) -> None:
        """Between two updates: the ranks keep their state when it is time. Nobody waits for it."""
        if len(self._since) >= self.every and not self._keeping:
            self._keep()

    def _keep(self) -> None:
        self._keeping, self._before = [rank.call("keep") for rank in self.ranks], len(self._since)
        self._hold(self._keeping)

    def _hold(self, kept: list[Future]) -> None:
        for index, (other, one) in enumerate(zip(self.elsewhere(), kept, strict=False)):
            if other is not None:
                other.call("hold", index, one)

    def recovered(self, error: Exception) -> bool:
        """Whether it came of lost ranks, and new ones now stand behind the last finished update. Raises what ends the
        attempts: that of the last one, or that there may be no more."""
        if not self.replace(error):
            return False
        while True:
            self.count += 1
            try:
                self._bring_back()
                return True
            except Exception as again:
                if not self.replace(again):
                    raise

    def _bring_back(self) -> None:
        self._keeping = []  # some ranks may not have come to it
        self.start()
        self._hold(self._kept)  # those that held it are gone
        if self._kept:
            self.wait_all([rank.call("restore", *self._kept) for rank in self.ranks])
        elif self._began is not None:
            self.wait_all(self._began())
        for update in self._since:
            self.wait_all(update())
        self.then()
