"""What teachers are asked and what they answer. (Answers and verdicts are kept by `orchestrator.base.journal`.)

In: problems, texts. Out: frozen records. Must not know: teachers, how an answer is read or graded.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.base.journal import Key
from rollout.data.problems import Problem
from rollout.mode import MODES

SIDES = {mode.name: mode for mode in reversed(MODES)}


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted."""

    problem: Problem
    side: str  # "think" or "short"
    sample: int  # 0..distill.samples-1

    @property
    def key(self) -> Key:
        return self.problem.uid, self.side, self.sample


@dataclass(frozen=True, slots=True)
class Answer:
    uid: str
    side: str
    sample: int
    text: str  # as the teacher wrote it; a <think> that its chat template opens is in front
    reasoning: str | None  # what an endpoint returned apart from the text
    finish: str  # "stop"; "length": reached max_tokens; "rejected": the endpoint refused this one request (text: why)
    tokens: int | None  # of the answer, thinking included, as the teacher counts them; None: not told
    logprob: float | None  # mean over its tokens, nats; None: not asked for

    @property
    def key(self) -> Key:
        return self.uid, self.side, self.sample
