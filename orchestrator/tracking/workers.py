"""What each rollout worker's engine does, as figures of a step: vLLM's queue and cache, weights, memory; and restarts,
of reward actors and learner ranks too.

In: handles of both. Out: a record under the names of the catalogue. Must not know: engines, Ray.

It never waits for a worker: each is asked at the end of a step (`ask`), once a second at most, and its answer is read
at the end of the next step, or later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.base.observer import Record
from orchestrator.tracking.failures import Failures
from orchestrator.tracking.poll import Poll
from rollout.base.handle import Handle
from rollout.base.spans import Pulse
from rollout.usage import WorkerStatus

EVERY_S = 1.0  # at most: a tiny run makes several steps a second, and a call costs the worker's time, too


class Workers:
    def __init__(
        self,
        handles: Sequence[Handle],
        every_s: float = EVERY_S,
        graders: Sequence[Handle] = (),
        learner_restarts: Callable[[], int] = lambda: 0,
    ):
        """handles: of rollout workers; graders: of reward actors; learner_restarts: of all ranks at once, so far."""
        self.every_s, self.learner_restarts = every_s, learner_restarts
        self._counted = 0  # of them
        self._due = 0.0  # when workers are asked next
        self.failures = Failures("workers")
        self._polls = [Poll(handle, "take_status", self.failures) for handle in handles]
        self._graders = [Poll(handle, "pulse", self.failures) for handle in graders]
        self._born: dict[str, float] = {}  # when each actor was started, by the key of its restarts

    def step(self) -> Record:
        """The figures of the answers that have come."""
        record: Record = {}
        received = 0
        for index, poll in enumerate(self._polls):
            status: WorkerStatus | None = poll.take() if poll.ready else None
            if status is not None:
                received += status.received
                record |= _figures(status, f"worker/{index}") | self._restarts(f"worker/{index}", status.born)
        if record:
            record["weight_sync/bytes"] = received
        for index, poll in enumerate(self._graders):
            pulse: Pulse | None = poll.take() if poll.ready else None
            if pulse is not None:
                record |= self._restarts(f"reward/{index}", pulse.born)
        before, self._counted = self._counted, self.learner_restarts()
        return record | ({"restarts/learner": self._counted - before} if self._counted > before else {})

    def _restarts(self, who: str, born: float) -> Record:
        """Since it answered last."""
        key = f"restarts/{who}"
        before, self._born[key] = self._born.get(key, born), born
        return {key: int(born != before)}

    def ask(self) -> None:
        """Ask whoever has answered before, when it is time."""
        if time.monotonic() < self._due:
            return
        for poll in (*self._polls, *self._graders):
            poll.ask()
        self._due = time.monotonic() + self.every_s


def _figures(status: WorkerStatus, name: str) -> Record:
    return {
        f"rollout/running/{name}": status.running,
        f"rollout/waiting/{name}": status.waiting,
        f"rollout/queued/{name}": status.queued,
        f"rollout/cache_use/{name}": status.cache,
        f"rollout/cache_use_max/{name}": status.cache_max,
        f"rollout/preemptions/{name}": status.preemptions,
        f"rollout/memory_gib/{name}": status.memory_gib,
    }
