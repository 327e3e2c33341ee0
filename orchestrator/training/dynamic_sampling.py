"""More prompts for a batch whose groups carry too little gradient (dynamic sampling: DAPO, arXiv 2503.14476, 3.2).

In: the judged groups of a batch. Out: those to learn from, and all that were judged. Must not know: losses, the queue
of batches.

Groups with equal rewards have zero advantages. With `rollout.refill.rounds` above 0 they leave, and the batch is filled
up with informative groups of further prompts, round by round, until it holds as many as prompts were asked for, or the
rounds are used up. An informative group that was judged is always learnt from, also when a round brings more than were
missing. With `abort`, groups of a round are accepted in the order of their prompts, never of their finishing, and those
behind the last one that is needed are given up: which ones does not depend on their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.schema import RolloutConf
from orchestrator.tracking.metrics import Timings
from reward.grader import Panel, PendingVerdicts
from reward.group import Group
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler

PIECES = 16  # that a round is asked for in, when what is not needed of it is to be given up


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch after its refill."""

    learnt: list[Group]  # to learn from
    judged: list[Group]  # all, those thrown away included
    rounds: int = 0
    asked: int = 0  # groups asked for in the rounds
    thrown: int = 0  # judged groups that nobody learns from
    given_up: int = 0  # sequences aborted


class Refill:
    def __init__(self, conf: RolloutConf, prompts: PromptStream, sampler: Sampler, panel: Panel):
        self.conf, self.prompts, self.sampler, self.panel = conf, prompts, sampler, panel

    def fill(self, groups: list[Group], step: int, timings: Timings) -> Filled:
        """step: of the batch, which its seeds follow from."""
        conf = self.conf.refill
        if not conf.rounds:
            return Filled(groups, groups)
        wanted, judged = len(groups), list(groups)
        rounds = asked = given_up = 0
        while rounds < conf.rounds and (missing := wanted - _informative(judged)) > 0:
            rate = max(_informative(judged), 1) / len(judged)
            count = min(math.ceil(missing / rate * conf.factor), wanted)
            prompts = self.prompts.take(count)
            size = math.ceil(count / PIECES) if conf.abort else count
            shares = [prompts[i : i + size] for i in range(0, count, size)]
            batches = [self.sampler.sample(share, self.conf.group_size, step) for share in shares]
            for index, batch in enumerate(batches):
                judged += self._judge(self.panel.ask(batch), timings)  # what is given up nobody grades
                if conf.abort and _informative(judged) >= wanted:
                    given_up += sum(later.abort() for later in batches[index + 1 :])
                    break
            rounds, asked = rounds + 1, asked + count
        learnt = [group for group in judged if group.informative]
        return Filled(learnt, judged, rounds, asked, len(judged) - len(learnt), given_up)

    def _judge(self, verdicts: PendingVerdicts, timings: Timings) -> list[Group]:
        with timings.of("rollout"):
            verdicts.batch.wait()
        timings.sampled(verdicts.batch)
        with timings.of("reward"):
            groups = self.panel.score(verdicts)
        timings.graded(verdicts)
        return groups


def _informative(groups: list[Group]) -> int:
    return sum(group.informative for group in groups)
