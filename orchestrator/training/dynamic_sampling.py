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
from collections.abc import Callable
from dataclasses import dataclass

from conf.schema import RolloutConf
from reward.grader import Grader, PendingVerdicts
from reward.group import Group
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler

PIECES = 16  # that a round is asked for in, when what is not needed of it is to be given up


@dataclass(frozen=True, slots=True)
class Filled:
    judged: list[Group]  # all
    learnt: list[Group]  # to learn from
    rounds: int = 0
    asked: int = 0  # groups requested in the rounds
    given_up: int = 0  # sequences aborted


class DynamicSampling:
    def __init__(self, conf: RolloutConf, prompts: PromptStream, sampler: Sampler, grader: Grader):
        self.conf, self.prompts, self.sampler, self.grader = conf, prompts, sampler, grader

    def fill(self, groups: list[Group], step: int, judge: Callable[[PendingVerdicts], list[Group]]) -> Filled:
        """step: of the batch, which its seeds follow from. judge: waits for a batch and its verdicts."""
        conf = self.conf.dynamic_sampling
        if not conf.rounds:
            return Filled(groups, groups)
        wanted, judged = len(groups), list(groups)
        rounds = asked = given_up = 0
        while rounds < conf.rounds and (missing := wanted - _informative(judged)) > 0:
            rate = max(_informative(judged), 1) / len(judged)
            count = min(math.ceil(missing / rate * conf.factor), wanted)
            prompts = self.prompts.take(count)
            size = math.ceil(count / PIECES) if conf.abort else count
            pieces = [prompts[i : i + size] for i in range(0, count, size)]
            batches = [self.sampler.sample(piece, self.conf.group_size, step) for piece in pieces]
            for index, batch in enumerate(batches):
                judged += judge(self.grader.ask(batch))  # what is given up nobody grades
                if conf.abort and _informative(judged) >= wanted:
                    given_up += sum(later.abort() for later in batches[index + 1 :])
                    break
            rounds, asked = rounds + 1, asked + count
        return Filled(judged, [group for group in judged if group.informative], rounds, asked, given_up)


def _informative(groups: list[Group]) -> int:
    return sum(group.informative for group in groups)
