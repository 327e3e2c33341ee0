"""Which sequences of a worker run when.

In: rollout requests, the engine's version, the time of every step. Out: sequences to begin, and each request's samples
when all of its sequences have ended. Must not know: engines, threads.

Sequences of several requests run side by side: those of older batches begin first, within a request in the order given.
A sequence begins once the engine has at least the weights that its request requires, and a newer batch's only as far as
they do not slow down those of older ones too much (`rollout.slowdown`).
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from conf.schema import RolloutConf
from rollout.engine import Request, Sample
from rollout.request import RolloutRequest
from rollout.step_time import StepTime


@dataclass(slots=True, eq=False)
class InFlight:
    """A rollout request, its sequences, and what was sampled so far."""

    request: RolloutRequest
    sequences: Sequence[Request]  # one for each response
    samples: dict[int, Sample] = field(default_factory=dict)  # by index into `sequences`
    begun: int = 0  # of the sequences
    begin: float | None = None  # seconds since the epoch, when the first one began
    done: Future[None] = field(default_factory=Future)  # all sequences have ended, or were given up


class Scheduler:
    def __init__(self, conf: RolloutConf):
        self.conf = conf
        self.running: dict[int, tuple[InFlight, int]] = {}  # engine's key -> request, index of its sequence
        self._waiting: list[tuple[int, int, InFlight]] = []  # sorted: batch, order of arrival, request not all begun
        self._unfinished: dict[InFlight, None] = {}  # oldest first
        self._arrivals = itertools.count()
        self._keys = itertools.count()
        self._step_time = StepTime()

    @property
    def waiting(self) -> list[int]:
        """Batches of the requests that have sequences to begin."""
        return [batch for batch, _, _ in self._waiting]

    @property
    def queued(self) -> int:
        """Sequences that have not begun."""
        return sum(len(one.sequences) - one.begun for _, _, one in self._waiting)

    @property
    def empty(self) -> bool:
        return not (self.running or self._waiting or self._unfinished)

    def admit(self, one: InFlight) -> None:
        self._unfinished[one] = None
        if one.sequences:
            bisect.insort(self._waiting, (one.request.batch, next(self._arrivals), one))
        else:
            self._finish(one)

    def may_begin(self, version: int) -> list[InFlight]:
        """Requests with sequences to begin that weights of `version` may sample, oldest batch first."""
        return [one for _, _, one in self._waiting if one.request.min_version <= version]

    def begin(self, version: int) -> list[tuple[int, Request]]:
        """Begin what there is room for: (key, sequence) of each, which are running from now on."""
        begun: list[tuple[int, Request]] = []
        room = self.conf.max_num_seqs - len(self.running)
        if room <= 0 or not self._waiting:
            return begun
        for one in self.may_begin(version):
            room = min(room, self._room_beside_older(one))
            if room <= 0:
                break
            one.begin = one.begin or time.time()
            for place in range(one.begun, min(one.begun + room, len(one.sequences))):
                key = next(self._keys)
                begun.append((key, one.sequences[place]))
                self.running[key] = (one, place)
                one.begun, room = place + 1, room - 1
            if not room:
                break
        self._waiting = [entry for entry in self._waiting if entry[2].begun < len(entry[2].sequences)]
        return begun

    def note_step(self, sequences: int, seconds: float) -> None:
        """Of a step in which none began."""
        self._step_time.note(sequences, seconds)

    def end(self, key: int, sample: Sample) -> None:
        one, place = self.running.pop(key)
        one.samples[place] = sample
        if len(one.samples) == len(one.sequences):
            self._finish(one)

    def running_of(self, batch: int) -> list[int]:
        """Keys of a batch's running sequences."""
        return [key for key, (one, _) in self.running.items() if one.request.batch == batch]

    def give_up(self, batch: int) -> int:
        """Finish a batch's requests with the samples that they have. Returns how many sequences have none."""
        for key in self.running_of(batch):
            del self.running[key]
        self._waiting = [entry for entry in self._waiting if entry[0] != batch]
        lost = 0
        for one in [one for one in self._unfinished if one.request.batch == batch]:
            lost += len(one.sequences) - len(one.samples)
            self._finish(one)
        return lost

    def fail(self, error: BaseException) -> None:
        """Nothing will be sampled any more: whoever waits for a request gets `error`."""
        for one in self._unfinished:
            one.done.set_exception(error)

    def _finish(self, one: InFlight) -> None:
        del self._unfinished[one]
        one.done.set_result(None)

    def _room_beside_older(self, one: InFlight) -> int:
        """Sequences of this request that may begin without slowing older batches too much."""
        most, slowdown = float(self.conf.max_num_seqs), self.conf.slowdown
        older = sum(o.request.batch < one.request.batch for o, _ in self.running.values())
        if slowdown is None or not older:
            return int(most)
        return int(max(0, min(most, self._step_time.beside(older, slowdown) - len(self.running))))
