"""What each rollout worker's engine does, as figures of a step: vLLM's queue and cache, weights, memory, restarts.

In: handles of rollout workers. Out: a record under the names of the catalogue. Must not know: engines, Ray.

It never waits for a worker: each is asked at the end of a step and its answer is read at the end of the next, or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.base.errors import ActorDied
from orchestrator.base.observer import Record
from rollout.base.handle import Future, Handle
from rollout.usage import WorkerStatus


@dataclass(slots=True, eq=False)
class _Asked:
    handle: Handle
    answer: Future | None = None
    born: float | None = None


class Workers:
    def __init__(self, handles: Sequence[Handle]):
        self._workers = [_Asked(handle) for handle in handles]

    def step(self) -> Record:
        """Read the answers that are there, and ask again whoever has answered."""
        record: Record = {}
        received = 0
        for index, one in enumerate(self._workers):
            if one.answer is not None and one.answer.done():
                try:
                    status: WorkerStatus = one.answer.wait()
                except ActorDied:  # who waits for its work gets this error, too, or goes on with its successor
                    one.answer = None
                    continue
                one.answer, received = None, received + status.received
                restarted = one.born is not None and status.born != one.born
                one.born = status.born
                record |= _figures(status, f"worker/{index}") | {f"restarts/worker/{index}": int(restarted)}
            if one.answer is None:
                one.answer = one.handle.call("take_status")
        return record | {"weight_sync/bytes": received} if record else record


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
