"""More prompts for a batch whose groups carry too little gradient (dynamic sampling: DAPO, arXiv 2503.14476, 3.2).

In: the judged groups of a batch. Out: those to learn from, and all that were judged. Must not know: losses, the queue
of batches.

Groups with equal rewards have zero advantages. With `rollout.dynamic_sampling.rounds` above 0 they leave, and the
batch is filled up with informative groups of further prompts, round by round, until it holds as many as prompts were
asked for, or the rounds are used up. An informative group that was judged is always learnt from, also when a round
brings more than were missing. With `abort`, groups of a round are accepted in the order of their prompts, never of
their finishing, and those behind the last one that is needed are given up: which ones does not depend on their length.
"""

from __future__ import annotations

import math

from conf.schema import RolloutConf
from orchestrator.tracking.metrics import Timings
from reward.grader import Grader, PendingVerdicts
from reward.group import Group, StepGroups
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler

PIECES = 16  # that a round is asked for in, when what is not needed of it is to be given up


class DynamicSampling:
    def __init__(self, conf: RolloutConf, prompts: PromptStream, sampler: Sampler, grader: Grader):
        self.conf, self.prompts, self.sampler, self.grader = conf, prompts, sampler, grader

    def fill(self, groups: list[Group], step: int, timings: Timings) -> StepGroups:
        """step: of the batch, which its seeds follow from."""
        conf = self.conf.dynamic_sampling
        if not conf.rounds:
            return StepGroups(groups, groups)
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
                judged += self._judge(self.grader.ask(batch), timings)  # what is given up nobody grades
                if conf.abort and _informative(judged) >= wanted:
                    given_up += sum(later.abort() for later in batches[index + 1 :])
                    break
            rounds, asked = rounds + 1, asked + count
        learnt = [group for group in judged if group.informative]
        return StepGroups(learnt, judged, rounds, asked, len(judged) - len(learnt), given_up)

    def _judge(self, verdicts: PendingVerdicts, timings: Timings) -> list[Group]:
        with timings.of("rollout"):
            verdicts.batch.wait()
        timings.sampled(verdicts.batch)
        with timings.of("reward"):
            groups = self.grader.score(verdicts)
        timings.graded(verdicts)
        return groups


def _informative(groups: list[Group]) -> int:
    return sum(group.informative for group in groups)
